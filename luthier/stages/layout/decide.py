"""What a recipe leaves to us: a number or a name for every `auto`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch, Parts
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.optim import defaults
from luthier.recipe import Recipe
from luthier.stages.layout.feeding import loader, rows_per_step
from luthier.stages.layout.kept import copied_bytes, optimiser_bytes, trained_parameters
from luthier.tasks.several.work import SeveralWork
from luthier.tasks.task import Work
from luthier.training.batch_size import Sizes, largest_that_pays
from luthier.training.loop import Care
from luthier.training.precision import choose_precision
from luthier.training.smoothing import Answering
from luthier.training.step_rules import rule_of
from luthier.training.world import World


def decided_recipe(recipe: Recipe, prepared: Prepared, work: Work, parts: Parts, device: str) -> Recipe:
    """Return the recipe with a number or a name for every `auto`."""
    training = recipe.training
    rate, head_rate = decided_rates(recipe, lambda: parts["model"].module.config)
    precision = choose_precision(training.precision, device)
    decided = recipe.changed(
        optim={"learning_rate": rate, "head_learning_rate": head_rate},
        training={
            "epochs": decided_epochs(recipe, prepared),
            "precision": precision,
            "threads": training.threads or torch.get_num_threads(),
        },
    )
    if isinstance(work, SeveralWork):
        tasks = {entry.name: entry.task for entry in recipe.tasks or ()}
        return decided.with_entries({name: {"loss": one.loss, "task": tasks[name].decided(one)} for name, one in work.members.items()})
    return decided.model_copy(update={"loss": work.loss, "task": recipe.task.decided(work)})


def decided_epochs(recipe: Recipe, prepared: Prepared) -> float:
    """Return the passes over the training rows."""
    epochs, split = recipe.training.epochs, prepared.splits["train"]
    return float(defaults.epochs(len(split), len(prepared.labels), rows_per_step(recipe, split)) if epochs == "auto" else epochs)


def decided_rates(recipe: Recipe, config: Callable[[], Any]) -> tuple[float, float]:
    """Return the highest rates of the body and of what starts from nothing.

    Args:
        recipe: The recipe; a rate that it names is kept.
        config: Gives the config of the model, where a rate goes by its width.
    """
    optim = recipe.optim
    rate = optim.learning_rate
    if rate == "auto":
        kind = "adapter" if recipe.adapter is not None else "scratch" if recipe.model.scratch is not None else "tuning"
        rate = defaults.round_to_two_digits(defaults.RATES[kind](width_of(config())) * optim.rate_factor)
    return rate, defaults.head_learning_rate(rate) if optim.head_learning_rate == "auto" else optim.head_learning_rate


def require_one_process(recipe: Recipe, world: World) -> None:
    """Refuse what is not one process's to choose or to compute."""
    if recipe.tasks is not None and world.size > 1:
        what = f"several tasks do not go with {world.size} processes, which agree at the start which gradients they exchange"
        raise ConfigError([Fault("tasks", what, "train in one process")])
    if world.size > 1 and recipe.rows_meet:
        what, key = f"compares the rows of a batch, and each of {world.size} processes has a part of them", "loss.contrast"
        if not recipe.task.adds_up():
            raise ConfigError([Fault("task.loss", what, "use one process, or a loss in which no rows meet")])
        raise ConfigError([Fault(key, what, f"use one process, or leave {key} out")])
    if recipe.training.batch_size != "auto":
        return
    if recipe.training.batch_tokens is not None:
        raise ConfigError([Fault("training.batch_size", "auto does not go with training.batch_tokens", "leave one of them out")])
    if world.size > 1:
        message = f"auto does not work with {world.size} processes, which share memory and rows"
        raise ConfigError([Fault("training.batch_size", message, "name a number, such as training.batch_size=32")])
    if not recipe.additive:
        raise ConfigError([Fault("training.batch_size", "auto does not fit a loss in which the rows meet", "name a number")])


def require_known_terms(recipe: Recipe, work: Work) -> None:
    """Refuse what a loss asks for beside itself where the task, one of the user's own, would pass it over."""
    asked = [name for name in ("contrast", "mixup", "smart") if getattr(recipe.loss, name, None) is not None]
    if asked and not isinstance(work, Answering):
        what = f"{recipe.task.registered_name} does not know it"
        raise ConfigError([Fault(f"loss.{name}", what, f"leave loss.{name} out") for name in asked])


def with_batch_size(recipe: Recipe, split: PreparedSplit, work: Work, parts: Parts, care: Care, new: frozenset[str]) -> Recipe:
    """Return the recipe with the numbers that `batch_size: auto` stands for; rows of a step stay as they are."""
    training = recipe.training
    order, load = np.argsort(split.longest_window_N, kind="stable"), loader(recipe, split, work)
    effective = min(training.effective_batch_size, len(split))

    def usual(size: int) -> Batch:
        start = max(0, (len(order) - size) // 2)
        return load(order[start : start + size], 0)

    rule = rule_of(training.step_rule)
    gradients = sum(p.numel() * p.element_size() for _, p in trained_parameters(parts))
    kept = gradients + optimiser_bytes(recipe, parts, new) + copied_bytes(recipe, parts, new)
    size = largest_that_pays(Sizes(effective, lambda size: load(order[-size:], 0), usual, kept), parts, work, rule, care)
    return recipe.changed(training={"batch_size": size, "gradient_accumulation_steps": effective // size})


def hidden_width(parts: Parts) -> int:
    """Return the width of the hidden states of the trained model."""
    return width_of(parts["model"].module.config)


def width_of(config: Any) -> int:
    """Return the width of the hidden states that a config says."""
    return int(next(width for name in ("hidden_size", "dim", "d_model", "n_embd") if (width := getattr(config, name, None))))
