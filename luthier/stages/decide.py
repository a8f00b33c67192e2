"""What a recipe leaves to us: a number or a name for every `auto`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch, Parts
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.optim import defaults
from luthier.recipe import Recipe
from luthier.stages.feeding import loader, rows_per_step
from luthier.tasks.task import Work
from luthier.training.batch_size import Sizes, largest_that_pays
from luthier.training.loop import Care
from luthier.training.precision import choose_precision
from luthier.training.step_rules import rule_of
from luthier.training.world import World


def decided_recipe(recipe: Recipe, prepared: Prepared, work: Work, parts: Parts, device: str) -> Recipe:
    """Return the recipe with a number or a name for every `auto`."""
    optim, training = recipe.optim, recipe.training
    rate = optim.learning_rate
    if rate == "auto":
        kind = "adapter" if recipe.adapter is not None else "scratch" if recipe.model.scratch is not None else "tuning"
        rate = defaults.RATES[kind](hidden_width(parts))
    head_rate = defaults.head_learning_rate(rate) if optim.head_learning_rate == "auto" else optim.head_learning_rate
    rows = len(prepared.splits["train"])
    epochs = training.epochs
    if epochs == "auto":
        epochs = defaults.epochs(rows, len(prepared.labels), rows_per_step(recipe, prepared.splits["train"]))
    precision = choose_precision(training.precision, device)
    decided = recipe.changed(
        optim={"learning_rate": rate, "head_learning_rate": head_rate},
        training={"epochs": float(epochs), "precision": precision, "threads": training.threads or torch.get_num_threads()},
    )
    return decided.model_copy(update={"loss": work.loss})


def require_one_process(recipe: Recipe, world: World) -> None:
    """Refuse to look for a batch size where it would not be one process's to choose."""
    if recipe.training.batch_size != "auto":
        return
    if recipe.training.batch_tokens is not None:
        raise ConfigError([Fault("training.batch_size", "auto does not go with training.batch_tokens", "leave one of them out")])
    if world.size > 1:
        message = f"auto does not work with {world.size} processes, which share memory and rows"
        raise ConfigError([Fault("training.batch_size", message, "name a number, such as training.batch_size=32")])
    if not recipe.task.additive:
        raise ConfigError([Fault("training.batch_size", "auto does not fit a task whose rows meet in the loss", "name a number")])


def with_batch_size(recipe: Recipe, split: PreparedSplit, work: Work, parts: Parts, care: Care) -> Recipe:
    """Return the recipe with the numbers that `batch_size: auto` stands for; rows of a step stay as they are."""
    training = recipe.training
    order, load = np.argsort(split.longest_window_N, kind="stable"), loader(recipe, split, work)
    effective = min(training.effective_batch_size, len(split))

    def usual(size: int) -> Batch:
        start = max(0, (len(order) - size) // 2)
        return load(order[start : start + size], 0)

    rule = rule_of(training.step_rule)
    size = largest_that_pays(Sizes(effective, lambda size: load(order[-size:], 0), usual), parts, work, rule, care)
    return recipe.changed(training={"batch_size": size, "gradient_accumulation_steps": effective // size})


def hidden_width(parts: Parts) -> int:
    """Return the width of the hidden states of the trained model."""
    config: Any = parts["model"].module.config
    return int(next(width for name in ("hidden_size", "dim", "d_model", "n_embd") if (width := getattr(config, name, None))))
