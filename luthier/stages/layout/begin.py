"""From a recipe to everything the loop needs: prepared rows, parts, optimiser, pace; what was `auto` is decided here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from luthier.core.allocator import keep_freed_memory
from luthier.core.errors import ConfigError, Fault
from luthier.core.kernels import keep_few_kernels
from luthier.core.machine import available_cores
from luthier.core.units import Duration
from luthier.core.work import Parts
from luthier.data.prepared import Prepared
from luthier.data.source import Share
from luthier.models.blocks import body_of
from luthier.optim.groups import inner_apart, parameter_groups
from luthier.optim.schedules.schedule import Horizon, Schedule
from luthier.recipe import Recipe
from luthier.stages.distillation.distilled import PROJECTION
from luthier.stages.distillation.teaching import Teaching, taught
from luthier.stages.layout.decide import decided_recipe, require_known_terms, require_one_process, with_batch_size
from luthier.stages.layout.faster import follow_steps, make_faster
from luthier.stages.layout.feeding import horizon, source_of
from luthier.stages.layout.go_on import gone_on
from luthier.stages.layout.identity import identity
from luthier.stages.layout.layers import choose_trained, own_rates
from luthier.stages.layout.outer import outer_parameters
from luthier.stages.running.following import add_follower, follower_of, with_penalty
from luthier.stages.running.unfreeze import Turns, turns_of
from luthier.stages.update.keeping import Keeping, going_on, keeping_of, with_old_head
from luthier.tasks.task import Work, WritingWork
from luthier.training.adversary import Ascent, Words
from luthier.training.averages import Moving, Rule, Stochastic, add_averages, averages_of
from luthier.training.checkpoint import Saved
from luthier.training.fit import Plan
from luthier.training.loop import Care
from luthier.training.mixing import Mixing
from luthier.training.mixout import Mixout, Start, starts_of
from luthier.training.noise import Noisy
from luthier.training.precision import allow_tf32, choose_device, halve_frozen
from luthier.training.pull import Pull
from luthier.training.smoothing import Answering, Smooth
from luthier.training.speed.blocks import speed_up
from luthier.training.speed.crowding import Crowd
from luthier.training.speed.prefix_feed import Feed
from luthier.training.state import TrainingState, seed_everything
from luthier.training.step_rules import rule_of
from luthier.training.step_rules.step_rule import Deriving, Losses
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

    def factor(self, step: int, scores: Sequence[float] = ()) -> float:
        """Return what the highest rates are multiplied by at a step, after the validation scores so far (higher is better)."""
        return self.schedule.factor(step, self.horizon) * self.schedule.share_left(scores)


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
        feed: Stored states of frozen layers, or None to compute them.
        turns: Layers that take turns in being trained, or None where all are trained throughout.
        keeping: What keeps the knowledge of the run that is tuned further, or None where there is none.
        teaching: What is learnt from a teacher, or None where there is none.
        starts: Weights that are mixed with what they started from, or None.
    """

    recipe: Recipe
    prepared: Prepared
    work: Work
    parts: Parts
    new: frozenset[str]
    pace: BoundSchedule
    care: Care
    feed: Feed | None = None
    turns: Turns | None = None
    keeping: Keeping | None = None
    teaching: Teaching | None = None
    starts: list[Start] | None = None

    @property
    def losses(self) -> Losses:
        """What the loop calls: the task at work, with all that the recipe puts around it."""
        training, loss = self.recipe.training, self.recipe.loss
        mixup, smart = (None, None) if loss is None else (loss.mixup, loss.smart)
        taught: Losses = self.work if self.teaching is None else self.teaching.losses(self.work)
        if smart is not None and isinstance(self.work, Answering):
            ascent, words = Ascent(smart.step_size, smart.epsilon), Words.of(self.parts)
            taught = Smooth(self.work, words, ascent, smart.steps, smart.weight, seed=training.seed, state=self.saved.state)
        losses = with_penalty(taught, self.parts)
        if self.feed is not None:
            losses = self.feed.losses(losses)
        if mixup is not None:
            mixed = Words.of(self.parts) if mixup.at == "words" else None
            losses = Mixing(losses, mixup.alpha, mixed, training.seed, self.saved.state)
        if training.neftune is not None:
            losses = Noisy(losses, Words.of(self.parts), training.neftune, training.seed, self.saved.state)
        return losses if self.keeping is None else self.keeping.losses(losses)

    @property
    def rule(self) -> Deriving:
        """What makes the gradient of a step: the step rule, on mixed weights where they are."""
        training, rule = self.recipe.training, rule_of(self.recipe.training.step_rule)
        if self.starts is None or training.mixout is None:
            return rule
        return Mixout(rule, self.starts, training.mixout, training.seed, self.saved.state)

    @cached_property
    def saved(self) -> Saved:
        """What a checkpoint takes; the optimiser is made at the first look, over the parameters as they are then."""
        share = Share(self.care.world.rank, self.care.world.size)
        feeds = (self.feed, self.teaching, self.keeping)
        source = source_of(self.recipe, self.prepared.splits["train"], self.work, share, self.care.device, feeds)
        optimiser = optimiser_of(self.recipe, self.parts, self.new, self.keeping)
        return Saved(self.parts, optimiser, source, TrainingState(), identity(self.recipe, self.prepared, self.pace))

    @cached_property
    def plan(self) -> Plan:
        """When to evaluate, save and stop."""
        training = self.recipe.training
        task = self.recipe.task
        metric = training.best_metric or task.headline()
        return Plan(
            eval_every=self._steps(training.eval_every) if "validation" in self.prepared.splits else None,
            save_every=self._steps(training.save_every),
            total_steps=self.pace.total_steps,
            keep=training.keep_checkpoints,
            early_stopping=training.early_stopping,
            metric=metric,
            greater_is_better=task.greater_is_better(metric),
        )

    def _steps(self, duration: Duration) -> int:
        return in_steps(duration, self.prepared, self.pace)


def in_steps(duration: Duration, prepared: Prepared, pace: BoundSchedule) -> int:
    """Return a duration in optimiser steps of a run, at least 1."""
    rows = len(prepared.splits["train"]) / pace.steps_per_epoch
    tokens = float(prepared.splits["train"].num_tokens_N.sum()) / pace.steps_per_epoch
    steps = duration.steps(
        total_steps=pace.total_steps, steps_per_epoch=pace.steps_per_epoch, samples_per_step=rows, tokens_per_step=tokens
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
    require_one_process(recipe, world)
    device = choose_device(world.local_rank)
    if training.speed.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(_threads(training.threads, world))
    allow_tf32(training.speed.tf32, device)
    seed_everything(training.seed)
    work = going_on(recipe, recipe.task.start(prepared, data=recipe.data, loss=recipe.loss))
    if any(isinstance(one, WritingWork) for one in (work, *getattr(work, "members", {}).values())):
        keep_few_kernels()
    require_known_terms(recipe, work)
    parts, new = work.parts(recipe.model)
    new = with_old_head(recipe, work, parts, new, len(prepared.labels))
    choose_trained(recipe, parts, new)
    if recipe.adapter is not None:
        new = _adapted(recipe, work, parts, new)
    for part in parts.values():
        if next(part.module.parameters()).device != torch.device(device):
            part.module.to(device)
        part.module.train()
    make_faster(recipe, prepared, work, parts, device=device, num_processes=world.size)
    speed_up(parts, training.speed, device)
    keeping = keeping_of(recipe, work, parts, world, device)
    recipe = world.shared(decided_recipe(recipe, prepared, work, parts, device))
    if _halves(recipe):
        halve_frozen(parts)
    if recipe.training.batch_size == "auto":
        recipe = with_batch_size(recipe, prepared.splits["train"], work, parts, Care(device, recipe.training.precision, 1.0), new)
    teaching = taught(recipe, prepared, work, parts, device)
    if PROJECTION in parts:
        new |= {name for name, _ in parts[PROJECTION].module.named_parameters()}
    pace = BoundSchedule(recipe.schedule, horizon(recipe, prepared.splits["train"]))
    averaging = averaging_of(recipe, prepared, pace)
    if averaging is not None:
        add_averages(parts, averaging)
    add_follower(recipe.adapter, parts, pace.horizon)
    care = Care(device, recipe.training.precision, recipe.training.max_grad_norm, world)
    turns = turns_of(recipe, parts, Horizon(pace.total_steps, pace.steps_per_epoch), world.size)
    own_rates(recipe, parts, new)  # what does not fit the model is refused before anything is computed
    starts = None if training.mixout is None else starts_of(parts, new)
    return Bench(recipe, prepared, work, parts, new, pace, care, turns=turns, keeping=keeping, teaching=teaching, starts=starts)


def averaging_of(recipe: Recipe, prepared: Prepared, pace: BoundSchedule) -> Rule | None:
    """Return which steps the weights are averaged over, or None; the last step is among them where the run is short."""
    training = recipe.training
    if training.swa is not None:
        start = min(in_steps(training.swa.start, prepared, pace), pace.total_steps)
        return Stochastic(start, in_steps(training.swa.every, prepared, pace))
    return None if training.ema is None else Moving(training.ema)


def _adapted(recipe: Recipe, work: Work, parts: Parts, new: frozenset[str]) -> frozenset[str]:
    """Put the adapter into the trained part; returns the names of what started from nothing as they are now."""
    assert recipe.adapter is not None
    if any(name.endswith(".new") for name in new):
        what = "an adapter leaves the vocabulary as it is, and the rows have characters that the tokenizer does not know"
        raise ConfigError([Fault("model.extend_vocabulary", what, "model.extend_vocabulary=false")])
    if getattr(getattr(parts["model"].module, "model", None), "added_rows", 0):
        what = "an adapter leaves the vocabulary as it is, and the chat template adds marks to it"
        raise ConfigError([Fault("model.extend_vocabulary", what, "model.extend_vocabulary=false makes the marks plain text")])
    if not recipe.model.head.is_own:
        raise ConfigError(
            [Fault("model.head", "an adapter keeps the head of the model family, not one of our own", "leave model.head out")]
        )
    if recipe.adapter.wants_rows_apart and getattr(work, "packing", False):
        what = f"{recipe.adapter.registered_name} puts virtual tokens before every row, and rows laid end to end have one beginning"
        raise ConfigError([Fault("data.packing", what, "data.packing=false")])
    parts["model"].checkpointed = "trained"
    if recipe.tasks is not None:
        recipe.adapter.attach(parts["model"].module, frozenset())  # into the trunk; the heads are beside it
        recipe.adapter.merge(deepcopy(body_of(parts["model"].module)))  # refuses now what could not be merged at the end
        trunk: Any = parts["model"].module
        trunk.freeze_vocabulary(new)
        return new
    return gone_on(recipe, work, parts["model"].module, recipe.adapter.attach(parts["model"].module, new))


def _halves(recipe: Recipe) -> bool:
    """Whether the frozen weights under an adapter are held in bfloat16 alone."""
    in_half = recipe.training.precision == "bf16" and recipe.training.speed.half_frozen
    return recipe.adapter is not None and in_half and recipe.adapter.base_may_be_halved and recipe.tasks is None


def _threads(wanted: int | None, world: World) -> int:
    """Return the threads of this process: what was wanted, but never more than its share of the cores where it is not alone."""
    cores = available_cores()
    return wanted or cores if world.local_size == 1 else min(wanted or cores, max(1, cores // world.local_size))


def crowd_of(recipe: Recipe, world: World) -> Crowd:
    """Return what watches for other processes; with processes of our own it cannot tell them apart, so then it is as if one thread ran."""
    alone = world.local_size == 1 and recipe.training.num_workers == 0
    return Crowd(_threads(recipe.training.threads, world) if alone else 1)


def optimiser_of(recipe: Recipe, parts: Parts, new: frozenset[str], keeping: Keeping | None = None) -> torch.optim.Optimizer:
    """Return the optimiser over the trained parameters; each group keeps its highest rate in `initial_lr`."""
    named = [(name, p) for part in parts.values() if part.mode == "trained" for name, p in part.module.named_parameters()]
    rate, head_rate = recipe.optim.learning_rate, recipe.optim.head_learning_rate
    assert rate != "auto" and head_rate != "auto"
    groups = parameter_groups(
        named,
        new=new,
        learning_rate=rate,
        head_learning_rate=head_rate,
        weight_decay=recipe.optim.weight_decay,
        own=own_rates(recipe, parts, new),
    )
    if recipe.optim.inner_apart:
        groups = inner_apart(groups, outer_parameters(parts, new))
    if recipe.adapter is not None:
        groups = recipe.adapter.regrouped(groups, named)
    for group in groups:
        group["initial_lr"] = group["lr"]
    optimiser = recipe.optim.build(groups)
    follow_steps(optimiser, parts)
    if recipe.training.l2_sp is not None:
        optimiser.register_step_post_hook(Pull([p for name, p in named if name not in new and p.requires_grad], recipe.training.l2_sp))
    if keeping is not None:
        keeping.hold(optimiser, parts, new)
    follower = follower_of(parts)
    if follower is not None:
        optimiser.register_step_post_hook(lambda *_: follower.after_step())
    averages = averages_of(parts)
    if averages is not None:
        optimiser.register_step_post_hook(lambda *_: averages.update())
    return optimiser
