"""The range test: the learning rate grows from step to step on a copy of the model, and the loss says which rates are good."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from luthier.core.work import Batch, Parts
from luthier.training.loop import Care
from luthier.training.precision import autocast
from luthier.training.state import undisturbed
from luthier.training.step_rules.step_rule import Losses, StepRule

SMOOTHING = 0.7  # weight of what was before in the running mean
EXPLODED = 4.0  # times the untouched model's loss at which the test ends
BELOW_LOWEST = 10.0  # the proposed rate is the one of the lowest loss, divided by this


@dataclass(frozen=True)
class Rates:
    """Which rates are tried.

    Args:
        low: First rate.
        high: Last rate.
        steps: Steps from the first to the last, each with a rate higher by the same factor.
    """

    low: float = 1e-7
    high: float = 1.0
    steps: int = 100

    def at(self, step: int) -> float:
        """Return the rate of a step, from 0."""
        return self.low * (self.high / self.low) ** (step / max(self.steps - 1, 1))


@dataclass(frozen=True)
class Point:
    """One step of the test.

    Args:
        rate: Its learning rate.
        loss: Loss of its rows.
        untouched: Loss of the same rows, with the same dropout, by the model as it was.
        smooth: Mean of the untouched losses plus the running mean of the differences, in which easy and hard rows make no noise.
    """

    rate: float
    loss: float
    untouched: float
    smooth: float


@dataclass(frozen=True)
class Found:
    """What a range test says.

    Args:
        points: The curve, as far as it is finite.
        rate: The proposed rate: that of the lowest smooth loss, divided by 10.
        lowest: Rate of the lowest smooth loss.
        steepest: Rate at which the smooth loss falls most.
        exploded: Whether the test ended because the loss grew without end.
    """

    points: list[Point]
    rate: float
    lowest: float
    steepest: float
    exploded: bool


def range_test(
    windows: Iterator[list[Batch]],
    parts: Parts,
    make_optimiser: Callable[[Parts], torch.optim.Optimizer],
    work: Losses,
    rule: StepRule,
    care: Care,
    rates: Rates,
) -> Found:
    """Grow the learning rate until the loss explodes; the model and the random numbers stay as they are.

    Args:
        windows: Micro-batches of each step.
        parts: Named modules; a copy of them is trained.
        make_optimiser: Makes the optimiser of the copy; rates of its groups keep their proportions.
        work: Gives weights and losses of a batch.
        rule: Makes the gradient of a window.
        care: Device, precision and clipping.
        rates: Which rates are tried.

    Reference: L. Smith, Cyclical Learning Rates for Training Neural Networks, 2017, https://arxiv.org/abs/1506.01186
    """
    points: list[Point] = []
    with undisturbed():
        copied = {name: replace(part, module=copy.deepcopy(part.module)) for name, part in parts.items()}
        optimiser = make_optimiser(copied)
        exploded = False
        for step in range(rates.steps):
            window = [batch.to(care.device) if care.device != "cpu" else batch for batch in next(windows)]
            with undisturbed():  # the same dropout for both
                untouched = _loss(window, parts, work, care)
            loss = _step(window, copied, optimiser, work, rule, care, rates.at(step))
            points.append(next_point(points, rates.at(step), loss, untouched))
            if has_exploded(points):
                exploded = True
                break
    return read_off(points, exploded)


def _step(
    window: list[Batch],
    parts: Parts,
    optimiser: torch.optim.Optimizer,
    work: Losses,
    rule: StepRule,
    care: Care,
    rate: float,
) -> float:
    first = optimiser.param_groups[0]["initial_lr"] / optimiser.param_groups[0].get("share", 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["initial_lr"] / first
    loss = rule.gradient(work, parts, window, autocast(care.precision, care.device), care.world)["total"]
    norm = care.world.clip([p for group in optimiser.param_groups for p in group["params"]], care.max_grad_norm)
    if not math.isfinite(norm):
        loss = math.inf
    if math.isfinite(loss):
        optimiser.step()
    optimiser.zero_grad()
    return loss


def _loss(window: list[Batch], parts: Parts, work: Losses, care: Care) -> float:
    """Return the loss of a step's rows without a gradient."""
    weights: dict[str, float] = {}
    for batch in window:
        for name, weight in work.weights(batch).items():
            weights[name] = weights.get(name, 0.0) + weight
    total = 0.0
    with torch.no_grad(), autocast(care.precision, care.device):
        for batch in window:
            terms = work.losses(parts, batch)
            total += sum(term.coefficient * float(term.sum) / max(weights[name], 1e-12) for name, term in terms.items())
    return total


def next_point(points: list[Point], rate: float, loss: float, untouched: float) -> Point:
    """Return the point that follows; the running mean is corrected for the few differences at its beginning."""
    differences = [loss - untouched, *(point.loss - point.untouched for point in reversed(points))]
    mean = sum(SMOOTHING**age * difference for age, difference in enumerate(differences))
    mean *= (1 - SMOOTHING) / (1 - SMOOTHING ** len(differences))
    return Point(rate, loss, untouched, _base([*points, Point(rate, loss, untouched, 0.0)]) + mean)


def _base(points: list[Point]) -> float:
    return sum(point.untouched for point in points) / len(points)


def has_exploded(points: list[Point]) -> bool:
    """Whether the loss is not finite, or its running mean far above the loss of the untouched model."""
    return not math.isfinite(points[-1].loss) or points[-1].smooth > EXPLODED * _base(points)


def _settled(points: list[Point]) -> list[Point]:
    """Return the finite points over one base: the mean of all untouched losses instead of those so far."""
    finite = [point for point in points if math.isfinite(point.smooth)]
    base = _base(finite) if finite else 0.0
    return [replace(point, smooth=point.smooth + base - _base(finite[: place + 1])) for place, point in enumerate(finite)]


def read_off(points: list[Point], exploded: bool) -> Found:
    """Return what a curve says.

    Args:
        points: The curve, rates ascending.
        exploded: Whether it ended before the last rate.
    """
    finite = _settled(points) or points[:1]
    lowest = min(finite, key=lambda point: point.smooth)
    until = finite[: finite.index(lowest) + 1]
    slopes = [
        ((after.smooth - before.smooth) / math.log(after.rate / before.rate), before.rate)
        for before, after in zip(until, until[1:], strict=False)
    ]
    steepest = min(slopes, default=(0.0, lowest.rate))[1]
    return Found(finite, float(f"{lowest.rate / BELOW_LOWEST:.1e}"), lowest.rate, steepest, exploded)
