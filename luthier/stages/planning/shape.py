"""How large a model is, and how much it keeps for its backward pass: read off a pass over tensors without content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from luthier.core.work import Batch
from luthier.data.prepared import Prepared
from luthier.models.lean.row_embedding import RowEmbedding
from luthier.models.outline import num_layers, outlined
from luthier.models.quantized import bytes_spared
from luthier.recipe import Recipe
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.layout.decide import hidden_width
from luthier.stages.layout.feeding import loader
from luthier.stages.layout.kept import copied_bytes, optimiser_bytes
from luthier.training.precision import autocast, choose_device
from luthier.training.state import undisturbed
from luthier.training.step_rules import rule_of

FEW, MORE = 1, 4  # layers of the models that are traced; the rest follows by straight line
ROWS = (2, 4)


@dataclass(frozen=True)
class Shape:
    """The size of a model.

    Args:
        parameters: All parameters.
        trainable: Those that are trained.
        matrices: Those in matrix products: all matrices but those that are only looked up.
        trained_matrices: Those of them that are trained.
        passed_matrices: Those of them that a gradient passes on its way to the lowest trained layer.
        weight_bytes: Memory of all.
        gradient_bytes: Memory of the gradients of the trained.
        optimiser_bytes: Memory of what the optimiser keeps from step to step.
        copied_bytes: Memory of further copies of weights: averages, where L2-SP pulls to, where SAM came from.
        layers: Layers, or None where the config does not say.
        width: Width of the hidden states.
        spared_bytes: Memory that a base in 4 or 8 bits does not take; it is no part of `weight_bytes`.
    """

    parameters: int
    trainable: int
    matrices: int
    trained_matrices: int
    passed_matrices: int
    weight_bytes: float
    gradient_bytes: int
    optimiser_bytes: float
    copied_bytes: int
    layers: int | None
    width: int
    spared_bytes: float = 0.0


@dataclass(frozen=True)
class Kept:
    """What the forward pass keeps for the backward pass, in bytes: at any number of rows, per row, and the largest tensor of a row."""

    fixed: float
    per_row: float
    largest_per_row: float

    def of(self, rows: int) -> float:
        """Return the bytes for a micro-batch."""
        return self.fixed + self.per_row * rows


def depths(layers: int | None) -> tuple[int, ...]:
    """Return the numbers of layers at which a model is looked at; 0 is the whole model."""
    return (0,) if layers is None or layers <= MORE else (FEW, MORE)


def at_depth(values: list[float], layers: int | None) -> float:
    """Return what a whole model has, from what models of `depths(layers)` have: each layer adds the same."""
    if len(values) == 1:
        return values[0]
    assert layers is not None
    return values[0] + (layers - FEW) * (values[1] - values[0]) / (MORE - FEW)


@contextmanager
def without_content() -> Iterator[Any]:
    """Within the context tensors have shapes and no content: models of any size take no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with undisturbed(), torch.device(choose_device()), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def _traceable(recipe: Recipe) -> Recipe:
    """Return the recipe with dropout masks that need no random number to be looked at; they are as large."""
    speed = recipe.training.speed.model_copy(update={"fast_dropout": False})
    return recipe.changed(training={"speed": speed})


def shape_of(recipe: Recipe, prepared: Prepared) -> Shape:
    """Return the size of the model of a recipe whose every `auto` is decided."""
    with without_content(), outlined():
        bench = lay_out(_traceable(recipe), prepared)
    return _counted(bench)


def kept_of(recipe: Recipe, prepared: Prepared, row: int, layers: int | None) -> Kept:
    """Return what the forward pass keeps for rows as long as one of the training split.

    Args:
        recipe: The recipe with every `auto` decided.
        prepared: Encoded rows.
        row: Index of the longest row of a micro-batch.
        layers: Layers of the model.
    """
    found = []
    for depth in depths(layers):
        batches = [_batch(recipe, prepared, np.repeat(row, rows)) for rows in ROWS]
        with without_content() as mode, outlined(depth):
            bench = lay_out(_traceable(recipe), prepared)
            sizes = [_saved(bench, _contentless(batch, mode)) for batch in batches]
        (few, largest), (more, _) = sizes
        per_row = (sum(more) - sum(few)) / (ROWS[1] - ROWS[0])
        found.append((sum(few) - per_row * ROWS[0], per_row, largest / ROWS[0]))
    fixed, per_row = (at_depth([entry[place] for entry in found], layers) for place in (0, 1))
    return Kept(fixed, per_row, max(entry[2] for entry in found))


def _batch(recipe: Recipe, prepared: Prepared, rows: np.ndarray) -> Batch:
    work = recipe.task.start(prepared, data=recipe.data, loss=recipe.loss)
    if prepared.members:
        return loader(recipe, prepared.splits["train"], work)(rows, 0)
    return work.collate([prepared.splits["train"].row(int(row)) for row in rows])


def _contentless(batch: Batch, mode: Any) -> Batch:
    def convert(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}

    return replace(batch, inputs=convert(batch.inputs), targets=convert(batch.targets))


def _saved(bench: Bench, batch: Batch) -> tuple[list[int], int]:
    """Return the bytes of every tensor that is kept, parameters left out, and those of the largest."""
    weights = {_storage(p) for part in bench.parts.values() for p in part.module.parameters()}
    found: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.setdefault(_storage(tensor), tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(bench.care.precision, bench.care.device):
        bench.work.losses(bench.parts, batch)
    sizes = [storage.nbytes() for place, storage in found.items() if place not in weights]
    return sizes, max(sizes, default=0)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _counted(bench: Bench) -> Shape:
    recipe, parts, new = bench.recipe, bench.parts, bench.new
    modules = [part.module for part in parts.values() if part.mode != "ema"]
    shortened = [m for module in modules for m in module.modules() if isinstance(m, RowEmbedding)]
    tables = {id(m.weight) for module in modules for m in module.modules() if isinstance(m, (torch.nn.Embedding, RowEmbedding))}
    tables |= {id(p) for module in modules for p in _looked_up(module)}
    trained = {id(p) for part in parts.values() if part.mode == "trained" for p in part.module.parameters() if p.requires_grad}
    parameters = [p for module in modules for p in module.parameters()]
    learnt = [p for p in parameters if id(p) in trained]
    matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in tables]
    lowest = next((place for place, p in enumerate(parameters) if id(p) in trained), len(parameters))
    above = {id(p) for p in parameters[lowest:]}
    gradients = sum(p.numel() * p.element_size() for p in learnt)
    config: Any = modules[0].config
    spared = 0.0 if recipe.model.quantize is None else bytes_spared(modules[0], recipe.model.quantize)
    return Shape(
        parameters=sum(p.numel() for p in parameters) + sum(m.rest.numel() - m.weight.numel() for m in shortened),
        trainable=sum(p.numel() for p in learnt),
        matrices=sum(p.numel() for p in matrices),
        trained_matrices=sum(p.numel() for p in matrices if id(p) in trained),
        passed_matrices=sum(p.numel() for p in matrices if id(p) in above),
        weight_bytes=sum(t.numel() * t.element_size() for t in [*parameters, *(m.rest for m in shortened)]) - spared,
        gradient_bytes=gradients,
        optimiser_bytes=optimiser_bytes(recipe, parts, new),
        copied_bytes=copied_bytes(recipe, parts, new) + rule_of(recipe.training.step_rule).copies_of_weights * gradients,
        layers=num_layers(config),
        width=hidden_width(parts),
        spared_bytes=spared,
    )


def _looked_up(module: Any) -> list[torch.nn.Parameter]:
    """Return the word embedding's parameters, unless the same matrix gives the scores of words."""
    words = list(module.get_input_embeddings().parameters()) if hasattr(module, "get_input_embeddings") else []
    scores = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    return [p for p in words if scores is None or all(p is not other for other in scores.parameters())]
