"""The loop, written once: a generator that yields one Tick per optimiser step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from luthier.core.machine import memory_bytes
from luthier.core.tick import Tick
from luthier.core.work import Batch, Parts
from luthier.training.precision import autocast
from luthier.training.state import TrainingState
from luthier.training.step_rules.step_rule import Losses, StepRule


class Pace(Protocol):
    """A schedule bound to the length of the run."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""

    def factor(self, step: int) -> float:
        """Return what each group's highest rate is multiplied by at a step."""


@dataclass(frozen=True)
class Care:
    """How a step is computed: `device`, `precision`, and the longest gradient that is applied as it is."""

    device: str
    precision: str
    max_grad_norm: float


def ticks(
    source: Iterable[list[Batch]],
    parts: Parts,
    work: Losses,
    step_rule: StepRule,
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
    windows = iter(source)
    while state.step < pace.total_steps:
        started = time.perf_counter()
        window = [batch.to(care.device) if care.device != "cpu" else batch for batch in next(windows)]
        factor = pace.factor(state.step)
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        means = step_rule.gradient(work, parts, window, autocast(care.precision, care.device))
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, care.max_grad_norm))
        skipped = _not_finite(means["total"], norm)
        if skipped is None:
            optimiser.step()
        optimiser.zero_grad()
        yield _finish_step(window, means, norm, skipped, started, optimiser, pace, state)


def _finish_step(
    window: list[Batch],
    means: dict[str, float],
    norm: float,
    skipped: str | None,
    started: float,
    optimiser: torch.optim.Optimizer,
    pace: Pace,
    state: TrainingState,
) -> Tick:
    seconds = time.perf_counter() - started
    tokens = sum(batch.num_tokens for batch in window)
    state.step += 1
    state.samples += sum(len(batch.ids) for batch in window)
    state.tokens += tokens
    state.seconds += seconds
    state.skipped_in_row = state.skipped_in_row + 1 if skipped else 0
    return Tick(
        step=state.step,
        total_steps=pace.total_steps,
        epoch=round(state.step / pace.steps_per_epoch, 4),
        samples=state.samples,
        tokens=state.tokens,
        loss=means["total"],
        losses={name: value for name, value in means.items() if name not in ("total", "loss")},
        grad_norm=norm,
        learning_rate=optimiser.param_groups[0]["lr"],
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        memory_bytes=memory_bytes(),
        skipped=skipped,
    )


def _not_finite(loss: float, norm: float) -> str | None:
    if loss != loss or abs(loss) == float("inf"):
        return f"the loss is {loss}"
    if norm != norm or abs(norm) == float("inf"):
        return f"the gradient norm is {norm}"
    return None
