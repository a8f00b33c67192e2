"""Which parameters are trained, and at which rate: what a recipe says of layers, told apart in the model at hand."""

from __future__ import annotations

from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.core.patterns import fitting
from luthier.core.work import Parts
from luthier.models.blocks import depths_of, levels_of
from luthier.models.freezing import freeze, train_only
from luthier.optim.groups import OwnRate
from luthier.recipe import Recipe

LAYER_DECAY, RATES = "optim.layer_decay", "optim.rates"


def choose_trained(recipe: Recipe, parts: Parts, new: frozenset[str]) -> None:
    """Freeze what the recipe says, before anything is put into the model.

    Raises:
        ConfigError: if it does not fit the model, or leaves nothing to train.
    """
    for part in parts.values():
        if part.mode == "trained" and recipe.model.freeze is not None:
            freeze(part.module, recipe.model.freeze, new)
        elif part.mode == "trained" and recipe.model.train is not None:
            train_only(part.module, recipe.model.train, new)


def own_rates(recipe: Recipe, parts: Parts, new: frozenset[str]) -> dict[str, OwnRate]:
    """Return the parameters that learn at another rate than the rest, by name.

    Args:
        recipe: The recipe, its rates decided.
        parts: Named modules.
        new: Names of parameters that started from nothing; layer-wise decay leaves them alone.

    Raises:
        ConfigError: if the layers of the model cannot be told, or a glob fits nothing that is trained, or everything.
    """
    found: dict[str, OwnRate] = {}
    for name, part in parts.items():
        if name == "model" and part.mode == "trained" and recipe.optim.layer_decay < 1:
            found |= _decayed(recipe, part.module, new)
    if recipe.optim.rates:
        found = _by_glob(recipe, parts, new, found)
    return found


def _decayed(recipe: Recipe, module: nn.Module, new: frozenset[str]) -> dict[str, OwnRate]:
    rate, decay = recipe.optim.learning_rate, recipe.optim.layer_decay
    assert rate != "auto"
    top = len(levels_of(module, LAYER_DECAY)) + 1
    return {
        name: OwnRate("embeddings" if depth == 0 else f"block {depth}", rate * decay ** (top - depth))
        for name, depth in depths_of(module, LAYER_DECAY).items()
        if name not in new and depth < top
    }


def _by_glob(recipe: Recipe, parts: Parts, new: frozenset[str], before: dict[str, OwnRate]) -> dict[str, OwnRate]:
    """Return the rates with those that globs give; of several that fit a parameter the last counts."""
    rate, head_rate = recipe.optim.learning_rate, recipe.optim.head_learning_rate
    assert rate != "auto" and head_rate != "auto"
    named = [(name, p) for part in parts.values() if part.mode == "trained" for name, p in part.module.named_parameters()]
    trained = {name for name, parameter in named if parameter.requires_grad}
    fitted = fitting([name for name, _ in named], recipe.optim.rates, RATES)
    _refuse_none_or_all(fitted, trained)
    found = dict(before)
    for pattern, names in fitted.items():
        written = recipe.optim.rates[pattern]
        for name in sorted(names & trained):
            usual = before.get(name, OwnRate("head", head_rate) if name in new else OwnRate("body", rate))
            if isinstance(written, float):
                found[name] = OwnRate(pattern, written)
            else:
                found[name] = OwnRate(f"{pattern} of {usual.where}", usual.rate * float(written.removesuffix("x")))
    return found


def _refuse_none_or_all(fitted: dict[str, set[str]], trained: set[str]) -> None:
    faults = [
        Fault(RATES, f"everything that {pattern!r} fits is frozen", "leave it out, or freeze less")
        for pattern, names in fitted.items()
        if not names & trained
    ]
    faults += [
        Fault(RATES, f"{pattern!r} fits everything that is trained", "set optim.learning_rate and optim.head_learning_rate instead")
        for pattern, names in fitted.items()
        if trained <= names
    ]
    if faults:
        raise ConfigError(faults)
