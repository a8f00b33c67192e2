"""From a recipe to everything the loop needs: prepared rows, parts, optimiser, pace; what was `auto` is decided here."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from luthier.core.errors import ConfigError, Fault
from luthier.core.machine import available_cores
from luthier.core.units import Duration
from luthier.core.work import Batch, Parts
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.data.source import EpochSource, Share
from luthier.optim import defaults
from luthier.optim.groups import parameter_groups
from luthier.optim.schedules.schedule import Horizon, Schedule
from luthier.recipe import Recipe
from luthier.stages.identity import identity
from luthier.tasks.task import Work
from luthier.training.checkpoint import Saved
from luthier.training.fit import Plan
from luthier.training.loop import Care
from luthier.training.precision import choose_device, choose_precision, halve_frozen
from luthier.training.speed.allocator import keep_freed_memory
from luthier.training.state import TrainingState, seed_everything
from luthier.training.world import ALONE, World

log = logging.getLogger("luthier")


@dataclass(frozen=True)
class BoundSchedule:
    """A schedule bound to the length of a run."""

    schedule: Schedule
    horizon: Horizon

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""
        return self.horizon.total_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""
        return self.horizon.steps_per_epoch

    def factor(self, step: int) -> float:
        """Return what the highest rates are multiplied by at a step."""
        return self.schedule.factor(step, self.horizon)


@dataclass(frozen=True)
class Bench:
    """Everything laid out for a training, before its first step.

    Args:
        recipe: The recipe with every `auto` decided.
        prepared: Encoded rows.
        work: The task at work.
        parts: Named modules.
        new: Names of parameters that started from nothing.
        pace: Rate of each step.
        care: Device, precision, clipping, and the processes that train together.
    """

    recipe: Recipe
    prepared: Prepared
    work: Work
    parts: Parts
    new: frozenset[str]
    pace: BoundSchedule
    care: Care

    @cached_property
    def saved(self) -> Saved:
        """What a checkpoint takes; the optimiser is made at the first look, over the parameters as they are then."""
        source = _source(self.recipe, self.prepared.splits["train"], self.work, Share(self.care.world.rank, self.care.world.size))
        state = TrainingState()
        return Saved(
            self.parts, _optimiser(self.recipe, self.parts, self.new), source, state, identity(self.recipe, self.prepared, self.pace)
        )

    @cached_property
    def plan(self) -> Plan:
        """When to evaluate, save and stop."""
        training = self.recipe.training
        task = self.recipe.task
        metric = training.best_metric or task.primary_metric
        return Plan(
            eval_every=self._steps(training.eval_every) if "validation" in self.prepared.splits else None,
            save_every=self._steps(training.save_every),
            total_steps=self.pace.total_steps,
            keep=training.keep_checkpoints,
            early_stopping=training.early_stopping,
            metric=metric,
            greater_is_better=metric not in ("loss", "ece", "perplexity"),
        )

    def _steps(self, duration: Duration) -> int:
        rows = len(self.prepared.splits["train"]) / self.pace.steps_per_epoch
        tokens = float(self.prepared.splits["train"].num_tokens_N.sum()) / self.pace.steps_per_epoch
        steps = duration.steps(
            total_steps=self.pace.total_steps, steps_per_epoch=self.pace.steps_per_epoch, samples_per_step=rows, tokens_per_step=tokens
        )
        return max(steps, 1)


def lay_out(recipe: Recipe, prepared: Prepared, world: World = ALONE) -> Bench:
    """Load the model, decide what is `auto`, and bind the schedule to the length of the run.

    Args:
        recipe: The recipe; values that are decided already are kept.
        prepared: Encoded rows.
        world: The processes that train together.
    """
    training = recipe.training
    device = choose_device(world.local_rank)
    keep_freed_memory()
    torch.set_num_threads(_threads(training.threads, world))
    seed_everything(training.seed)
    work = recipe.task.start(prepared, data=recipe.data, loss=recipe.loss)
    parts, new = work.parts(recipe.model)
    if recipe.adapter is not None:
        new = _adapted(recipe, parts, new)
    for part in parts.values():
        part.module.to(device).train()
    recipe = world.shared(_decided(recipe, prepared, work, parts, device))
    if recipe.adapter is not None and recipe.training.precision == "bf16" and recipe.training.speed.shadow_weights:
        halve_frozen(parts)
    pace = BoundSchedule(recipe.schedule, _horizon(recipe, len(prepared.splits["train"])))
    care = Care(device, recipe.training.precision, recipe.training.max_grad_norm, world)
    return Bench(recipe, prepared, work, parts, new, pace, care)


def _adapted(recipe: Recipe, parts: Parts, new: frozenset[str]) -> frozenset[str]:
    """Put the adapter into the trained part; returns the names of what started from nothing as they are now."""
    assert recipe.adapter is not None
    if any(name.endswith(".new") for name in new):
        what = "an adapter leaves the vocabulary as it is, and the rows have characters that the tokenizer does not know"
        raise ConfigError([Fault("model.extend_vocabulary", what, "model.extend_vocabulary=false")])
    if not recipe.model.head.is_own:
        raise ConfigError(
            [Fault("model.head", "an adapter keeps the head of the model family, not one of our own", "leave model.head out")]
        )
    parts["model"].checkpointed = "trained"
    return recipe.adapter.attach(parts["model"].module, new)


def _threads(wanted: int | None, world: World) -> int:
    """Return the threads of this process: what was wanted, but never more than its share of the cores where it is not alone."""
    cores = available_cores()
    return wanted or cores if world.local_size == 1 else min(wanted or cores, max(1, cores // world.local_size))


def _horizon(recipe: Recipe, rows: int) -> Horizon:
    training = recipe.training
    assert training.epochs != "auto"
    steps_per_epoch = math.ceil(math.ceil(rows / training.batch_size) / training.gradient_accumulation_steps)
    steps = max(1, math.ceil(training.epochs * steps_per_epoch - 1e-9))
    return Horizon(min(steps, training.max_steps or steps), steps_per_epoch)


def _decided(recipe: Recipe, prepared: Prepared, work: Work, parts: Parts, device: str) -> Recipe:
    """Return the recipe with a number or a name for every `auto`."""
    optim, training = recipe.optim, recipe.training
    rate = optim.learning_rate
    if rate == "auto":
        width = hidden_width(parts)
        kind = "adapter" if recipe.adapter is not None else "scratch" if recipe.model.scratch is not None else "tuning"
        rate = defaults.RATES[kind](width)
    head_rate = defaults.head_learning_rate(rate) if optim.head_learning_rate == "auto" else optim.head_learning_rate
    rows = len(prepared.splits["train"])
    epochs = training.epochs
    if epochs == "auto":
        epochs = defaults.epochs(rows, len(prepared.labels), training.batch_size * training.gradient_accumulation_steps)
    precision = choose_precision(training.precision, device)
    decided = recipe.changed(
        optim={"learning_rate": rate, "head_learning_rate": head_rate},
        training={"epochs": float(epochs), "precision": precision, "threads": training.threads or torch.get_num_threads()},
    )
    return decided.model_copy(update={"loss": work.loss})


def hidden_width(parts: Parts) -> int:
    """Return the width of the hidden states of the trained model."""
    config: Any = parts["model"].module.config
    return int(next(width for name in ("hidden_size", "dim", "d_model", "n_embd") if (width := getattr(config, name, None))))


def _source(recipe: Recipe, split: PreparedSplit, work: Work, share: Share) -> EpochSource:
    seed = recipe.training.seed

    def load(rows: np.ndarray, epoch: int) -> Batch:
        found = [split.row(int(row)) for row in rows]
        return work.collate([work.item(row, np.random.default_rng((seed, epoch, row.id))) for row in found])

    return EpochSource(
        split.longest_window_N,
        load,
        batch_size=recipe.training.batch_size,
        accumulate=recipe.training.gradient_accumulation_steps,
        seed=seed,
        by_length=recipe.training.group_by_length,
        num_workers=recipe.training.num_workers,
        share=share,
    )


def _optimiser(recipe: Recipe, parts: Parts, new: frozenset[str]) -> torch.optim.Optimizer:
    named = [(name, p) for part in parts.values() if part.mode == "trained" for name, p in part.module.named_parameters()]
    rate, head_rate = recipe.optim.learning_rate, recipe.optim.head_learning_rate
    assert rate != "auto" and head_rate != "auto"
    groups = parameter_groups(named, new=new, learning_rate=rate, head_learning_rate=head_rate, weight_decay=recipe.optim.weight_decay)
    for group in groups:
        group["initial_lr"] = group["lr"]
    return recipe.optim.build(groups)
