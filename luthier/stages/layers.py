"""Which rate each trained parameter has: what a recipe says of layers, told apart in the model at hand."""

from __future__ import annotations

from luthier.core.work import Parts
from luthier.models.blocks import blocks_of, depths_of
from luthier.optim.groups import OwnRate
from luthier.recipe import Recipe

LAYER_DECAY = "optim.layer_decay"


def own_rates(recipe: Recipe, parts: Parts, new: frozenset[str]) -> dict[str, OwnRate]:
    """Return the parameters that learn at another rate than the rest, by name.

    Args:
        recipe: The recipe, its rates decided.
        parts: Named modules.
        new: Names of parameters that started from nothing; layer-wise decay leaves them alone.

    Raises:
        ConfigError: if the layers of the model cannot be told.
    """
    if recipe.optim.layer_decay == 1:
        return {}
    rate = recipe.optim.learning_rate
    assert rate != "auto"
    modules = [part.module for part in parts.values() if part.mode == "trained"]
    found: dict[str, OwnRate] = {}
    for module in modules:
        top = len(blocks_of(module, LAYER_DECAY)) + 1
        for name, depth in depths_of(module, LAYER_DECAY).items():
            if name not in new and depth < top:
                found[name] = OwnRate("embeddings" if depth == 0 else f"block {depth}", rate * recipe.optim.layer_decay ** (top - depth))
    return found
