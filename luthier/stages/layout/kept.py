"""What a run keeps in memory from step to step beside the model: what the optimiser remembers, and copies of weights."""

from __future__ import annotations

from torch import nn

from luthier.core.work import Parts
from luthier.recipe import Recipe
from luthier.stages.layout.outer import outer_parameters


def trained_parameters(parts: Parts) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that have a gradient, with their names."""
    named = [(name, p) for part in parts.values() if part.mode == "trained" for name, p in part.module.named_parameters()]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def optimiser_bytes(recipe: Recipe, parts: Parts, new: frozenset[str]) -> float:
    """Return what the recipe's optimiser keeps of the trained parameters.

    Args:
        recipe: The recipe.
        parts: Named modules.
        new: Names of the parameters that started from nothing.
    """
    outer = outer_parameters(parts, new)
    trained = trained_parameters(parts)
    return sum(recipe.optim.kept_bytes(p.shape, inner=p.ndim == 2 and id(p) not in outer) for _, p in trained)


def copied_bytes(recipe: Recipe, parts: Parts, new: frozenset[str]) -> int:
    """Return what copies of the trained weights take throughout a run: their averages, and what L2-SP and mixout remember of the start.

    Args:
        recipe: The recipe.
        parts: Named modules.
        new: Names of the parameters that started from nothing, which are not pulled.
    """
    training, trained = recipe.training, trained_parameters(parts)
    averaged = [p for _, p in trained] if training.ema is not None or training.swa is not None else []
    starts = (training.l2_sp is not None) + (training.mixout is not None)
    started = [p for name, p in trained if name not in new] * starts
    return sum(p.numel() * p.element_size() for p in [*averaged, *started])
