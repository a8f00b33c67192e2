"""A moving average of the trained weights: what is measured and saved, while training goes on with the weights themselves.

A rule says how much of the old average stays at each step: `Moving` for one that forgets, `Stochastic` for one over chosen steps.

Reference: Polyak and Juditsky 1992; stochastic weight averaging, Izmailov et al., https://arxiv.org/abs/1803.05407; torch.optim.swa_utils
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from luthier.core.work import Part, Parts

NAME = "ema"
SHORT = 9  # the average of the first n steps forgets as if it were over n / 9 + 1 of them


class Rule(Protocol):
    """Which steps an average is over."""

    def stays(self, step: int) -> float:
        """Return how much of the old average stays after a step, counted from 1: 1 leaves the step out, 0 begins the average."""

    def has_begun(self, steps: int) -> bool:
        """Whether there is an average after so many steps."""


@dataclass(frozen=True)
class Moving:
    """At first the average is short: after n steps the old average counts n / (n + 9), until that reaches `decay`.

    Args:
        decay: How much of the old average stays at each step, 0 to below 1.
    """

    decay: float

    def stays(self, step: int) -> float:
        """Return the share of the old average."""
        return min(self.decay, (step - 1) / (step - 1 + SHORT))

    def has_begun(self, steps: int) -> bool:
        """Whether there was a step."""
        return steps > 0


@dataclass(frozen=True)
class Stochastic:
    """The mean over some steps, each counted alike.

    Args:
        start: The first of them.
        every: Steps from one to the next.
    """

    start: int
    every: int

    def stays(self, step: int) -> float:
        """Return the share of the old average: k / (k + 1) where k steps were taken in before."""
        after = step - self.start
        if after < 0 or after % self.every:
            return 1.0
        return (taken := after // self.every) / (taken + 1)

    def has_begun(self, steps: int) -> bool:
        """Whether the first of them was done."""
        return steps >= self.start


class Averages(nn.Module):
    """One average for each trained parameter; they are parameters themselves, so that a checkpoint holds them.

    Args:
        followed: The parameters by name.
        rule: Which steps the average is over.
    """

    def __init__(self, followed: dict[str, nn.Parameter], rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self._followed = list(followed.values())
        for name, parameter in followed.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(parameter.detach().clone(), requires_grad=False))
        self._averages: list[torch.Tensor] = list(self.parameters())
        self.steps = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in, after an optimiser's step."""
        self.steps.add_(1)
        stays = self.rule.stays(int(self.steps))
        if stays < 1:
            torch._foreach_lerp_(self._averages, [p.detach() for p in self._followed], 1 - stays)

    @torch.no_grad()
    def exchange(self) -> None:
        """Let the model and the averages change places, if there is an average yet."""
        begun = self.rule.has_begun(int(self.steps))
        for parameter, average in zip(self._followed, self._averages, strict=True) if begun else ():
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)


def add_averages(parts: Parts, rule: Rule) -> None:
    """Put a part with the averages of all trained parameters beside the parts."""
    trained = {name: part for name, part in parts.items() if part.mode == "trained"}
    followed = {
        f"{name}/{inside}": parameter
        for name, part in trained.items()
        for inside, parameter in part.module.named_parameters()
        if parameter.requires_grad
    }
    parts[NAME] = Part(Averages(followed, rule), "ema")


def averages_of(parts: Parts) -> Averages | None:
    """Return the averages among the parts, or None."""
    module = parts[NAME].module if NAME in parts else None
    assert module is None or isinstance(module, Averages)
    return module


class Exchanging(Protocol):
    """What has the weights that are measured and saved, where those are not the weights that are trained."""

    def exchange(self) -> None:
        """Let the model have them; the next call gives it its own back, bit for bit."""


def exchanging(parts: Parts, optimiser: torch.optim.Optimizer) -> Exchanging | None:
    """Return the averages among the parts, or an optimiser that averages the weights itself, or None."""
    averages = averages_of(parts)
    if averages is None and hasattr(optimiser, "exchange"):
        of_optimiser: Exchanging = optimiser
        return of_optimiser
    return averages


@contextmanager
def averaged(parts: Parts, optimiser: torch.optim.Optimizer) -> Iterator[None]:
    """Within the context the parts have the weights that are measured; after it those that are trained, bit for bit."""
    averages = exchanging(parts, optimiser)
    if averages is None:
        yield
        return
    averages.exchange()
    try:
        yield
    finally:
        averages.exchange()
