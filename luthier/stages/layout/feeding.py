"""Which rows each step reads, how many steps that makes, and what makes their batches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch
from luthier.data.batches import Order as RowOrder
from luthier.data.by_class import ClassOrder
from luthier.data.mixing import Mixture
from luthier.data.prefetch import load_in_thread
from luthier.data.prepared import ID_SPAN, PreparedSplit
from luthier.data.source import Ahead, EpochSource, Load, Order, Share
from luthier.data.workers import load_ahead
from luthier.optim.schedules.schedule import Horizon
from luthier.recipe import Recipe
from luthier.tasks.several.work import SeveralWork
from luthier.tasks.task import Work
from luthier.training.section import TrainingSection

PIECE_TOKENS = 2048  # enough for matrix products at full speed


class Loading(Protocol):
    """Changes how a batch is loaded."""

    def loading(self, load: Load) -> Load:
        """Return how it is loaded then."""


def order_of(recipe: Recipe, split: PreparedSplit) -> Order:
    """Return the order of the training rows, those of several tasks mixed."""
    training = recipe.training
    if split.members:
        assert recipe.mixing is not None
        return Mixture([order_of(recipe, member) for member in split.members.values()], recipe.mixing, training.seed)
    if training.rows_per_class is not None:
        return _by_class(training, split)
    return RowOrder(
        split.longest_window_N,
        training.rows if training.batch_tokens is None else 1,
        training.seed,
        by_length=training.group_by_length,
        batch_tokens=training.batch_tokens,
    )


def _by_class(training: TrainingSection, split: PreparedSplit) -> ClassOrder:
    """Return an order with some rows of a class together.

    Raises:
        ConfigError: if rows have several labels each.
    """
    assert training.rows_per_class is not None
    classes_N = np.asarray(split.targets)
    if classes_N.ndim != 1:
        what = "rows have several labels each, so none is of one class"
        raise ConfigError([Fault("training.rows_per_class", what, "leave training.rows_per_class out")])
    by_length = training.group_by_length
    return ClassOrder(split.longest_window_N, classes_N, training.rows, training.rows_per_class, training.seed, by_length=by_length)


def horizon(recipe: Recipe, split: PreparedSplit) -> Horizon:
    """Return how many steps a run on these rows has."""
    training = recipe.training
    assert training.epochs != "auto"
    steps_per_epoch = math.ceil(order_of(recipe, split).num_batches / training.gradient_accumulation_steps)
    steps = max(1, math.ceil(training.epochs * steps_per_epoch - 1e-9))
    return Horizon(min(steps, training.max_steps or steps), steps_per_epoch)


def rows_per_step(recipe: Recipe, split: PreparedSplit) -> int:
    """Return how many rows an optimiser step has, in the mean where batches go by tokens."""
    training = recipe.training
    if training.batch_tokens is None:
        return training.rows_per_step
    return math.ceil(len(split) / order_of(recipe, split).num_batches) * training.gradient_accumulation_steps


def loader(recipe: Recipe, split: PreparedSplit, work: Work, *, pinned: bool = False) -> Load:
    """Return what makes the batch of some rows in some epoch."""
    if isinstance(work, SeveralWork):
        return _of_one_task(recipe, split, work, pinned=pinned)
    seed = recipe.training.seed

    def load(rows: np.ndarray, epoch: int) -> Batch:
        found = [split.row(int(row)) for row in rows]
        if work.draws:
            found = [work.item(row, np.random.default_rng((seed, epoch, row.id))) for row in found]
        batch = work.collate(found)
        return batch.pinned() if pinned else batch

    return load


def _of_one_task(recipe: Recipe, split: PreparedSplit, work: SeveralWork, *, pinned: bool) -> Load:
    """Return what makes a batch of the task that its rows are of, and names it."""
    names, starts = list(split.members), np.cumsum([0, *map(len, split.members.values())])
    loads = [loader(recipe.of_task(name), member, work.members[name], pinned=pinned) for name, member in split.members.items()]

    def load(rows: np.ndarray, epoch: int) -> Batch:
        task = int(np.searchsorted(starts, rows[0], side="right")) - 1
        batch = loads[task](rows - starts[task], epoch)
        return replace(batch, ids=[task * ID_SPAN + id_ for id_ in batch.ids], task=names[task])

    return load


def source_of(
    recipe: Recipe, split: PreparedSplit, work: Work, share: Share, device: str, feeds: Iterable[Loading | None] = ()
) -> EpochSource:
    """Return the source of the training's windows.

    Args:
        recipe: The recipe.
        split: The training rows.
        work: The task at work.
        share: What this process computes of each micro-batch.
        device: Device of the modules.
        feeds: What changes how a batch is loaded: puts what frozen layers gave in the place of tokens, or a teacher's answers beside them.
    """
    ahead = _ahead(recipe.training, device)
    load = loader(recipe, split, work, pinned=device != "cpu" and ahead is load_in_thread)
    for feed in feeds:
        load = load if feed is None else feed.loading(load)
    return EpochSource(
        order_of(recipe, split),
        load,
        accumulate=recipe.training.gradient_accumulation_steps,
        ahead=ahead,
        share=share,
        most_tokens=most_tokens_at_once(recipe, device),
    )


def most_tokens_at_once(recipe: Recipe, device: str) -> int | None:
    """Return how many tokens go through the model at once, where that is limited; not where the rows of a batch meet in the loss."""
    most = recipe.training.most_tokens_at_once
    if not recipe.additive:
        return None
    if most != "auto":
        return most
    return PIECE_TOKENS if recipe.adapter is not None and device == "cpu" else None


def _ahead(training: TrainingSection, device: str) -> Ahead | None:
    """Return how windows are loaded ahead: in processes, in a thread while an accelerator computes, or not."""
    if training.num_workers:
        return partial(load_ahead, num_workers=training.num_workers)
    return load_in_thread if training.speed.prefetch and device != "cpu" else None
