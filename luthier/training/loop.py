"""The loop, written once: a generator that yields one Tick per optimiser step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from luthier.core.machine import memory_bytes
from luthier.core.tick import Tick
from luthier.core.work import Batch, Parts
from luthier.training.memory import Cuttable, within_memory
from luthier.training.precision import autocast
from luthier.training.scaling import scaling_for
from luthier.training.state import TrainingState
from luthier.training.step_rules.step_rule import Deriving, Losses
from luthier.training.world import ALONE, World


class Pace(Protocol):
    """A schedule bound to the length of the run."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""

    def factor(self, step: int, scores: Sequence[float]) -> float:
        """Return what each group's highest rate is multiplied by at a step, after the validation scores so far (higher is better)."""


class Source(Cuttable, Protocol):
    """Where windows come from."""

    @property
    def taken(self) -> Taken:
        """The window that was handed out last, of all processes."""

    @property
    def is_cut(self) -> bool:
        """Whether micro-batches are smaller than planned, because memory ran out."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield windows, the micro-batches of one optimiser step."""


class Taken(Protocol):
    """The rows of one step."""

    @property
    def num_rows(self) -> int:
        """How many rows, on all processes together."""


@dataclass(frozen=True)
class Care:
    """How a step is computed.

    Args:
        device: Device of the modules.
        precision: fp32, bf16 or fp16.
        max_grad_norm: Longest gradient that is applied as it is.
        world: The processes that compute it together.
    """

    device: str
    precision: str
    max_grad_norm: float
    world: World = ALONE


def ticks(
    source: Source,
    parts: Parts,
    work: Losses,
    step_rule: Deriving,
    optimiser: torch.optim.Optimizer,
    pace: Pace,
    state: TrainingState,
    care: Care,
) -> Iterator[Tick]:
    """Train until the pace's last step; a step whose loss or gradient is not finite never reaches the weights.

    Args:
        source: Yields windows, the micro-batches of one optimiser step.
        parts: Named modules, trained or frozen.
        work: Gives weights and losses of a batch.
        step_rule: Makes the gradient of a window.
        optimiser: Steps the trained parameters; each group has its highest rate in `initial_lr`.
        pace: Gives the rate of each step.
        state: Counters, advanced in place.
        care: Device, precision and clipping.

    Yields:
        One Tick after each step.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    scaling = scaling_for(care.precision, care.device, state.loss_scale)
    with closing(iter(source)) as windows:  # type: ignore[type-var]
        while state.step < pace.total_steps:
            started = time.perf_counter()
            window = next(windows)
            factor = pace.factor(state.step, state.scores)
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * factor

            def attempt(batches: list[Batch]) -> dict[str, float]:
                moved = [batch.to(care.device) if care.device != "cpu" else batch for batch in batches]
                return step_rule.gradient(scaling.lifted(work), parts, moved, autocast(care.precision, care.device), care.world)

            means = scaling.lowered(within_memory(attempt, window, source, optimiser.zero_grad, care.world))
            scaling.unscale(optimiser)
            norm = care.world.clip(parameters, care.max_grad_norm)
            skipped = _not_finite(means["total"], norm)
            if skipped is None:
                optimiser.step()
            optimiser.zero_grad()
            tokens = int(care.world.sum({"tokens": sum(batch.num_tokens for batch in window if batch.counts)})["tokens"])
            seconds = time.perf_counter() - started
            _count(state, source.taken.num_rows, tokens, seconds, bad=skipped is not None and not scaling.explains(means["total"]))
            scaling.settle()
            state.loss_scale = scaling.state_dict()
            micro_batch = source.most_rows if source.is_cut else None
            reached = Reached(means, norm, skipped, _rate(optimiser.param_groups[0]), tokens, seconds, micro_batch)
            yield _tick(reached, pace, state)


@dataclass(frozen=True)
class Reached:
    """What one step gave: means of the losses, norm of the gradient, why it was skipped, rate, tokens, seconds, smaller micro-batch."""

    means: dict[str, float]
    norm: float
    skipped: str | None
    learning_rate: float
    tokens: int
    seconds: float
    micro_batch: int | None


def _count(state: TrainingState, rows: int, tokens: int, seconds: float, *, bad: bool) -> None:
    state.step += 1
    state.samples += rows
    state.tokens += tokens
    state.seconds += seconds
    state.skipped_in_row = state.skipped_in_row + 1 if bad else 0


def _tick(reached: Reached, pace: Pace, state: TrainingState) -> Tick:
    return Tick(
        step=state.step,
        total_steps=pace.total_steps,
        epoch=round(state.step / pace.steps_per_epoch, 4),
        samples=state.samples,
        tokens=state.tokens,
        loss=reached.means["total"],
        losses={name: value for name, value in reached.means.items() if name not in ("total", "loss")},
        grad_norm=reached.norm,
        learning_rate=reached.learning_rate,
        seconds=reached.seconds,
        tokens_per_second=reached.tokens / reached.seconds,
        memory_bytes=memory_bytes(),
        micro_batch=reached.micro_batch,
        skipped=reached.skipped,
    )


def _rate(group: dict[str, Any]) -> float:
    """Return the rate that a group's own is a share of."""
    rate: float = group["lr"] / group.get("share", 1.0)
    return rate


def _not_finite(loss: float, norm: float) -> str | None:
    if loss != loss or abs(loss) == float("inf"):
        return f"the loss is {loss}"
    if norm != norm or abs(norm) == float("inf"):
        return f"the gradient norm is {norm}"
    return None
