"""A moving average of the trained weights: what is measured and saved, while training goes on with the weights themselves.

Reference: Polyak and Juditsky 1992; torch.optim.swa_utils
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from luthier.core.work import Part, Parts

NAME = "ema"
SHORT = 9  # the average of the first n steps forgets as if it were over n / 9 + 1 of them


class Averages(nn.Module):
    """One average for each trained parameter; they are parameters themselves, so that a checkpoint holds them.

    At first the average is short: after n steps the old average counts n / (n + 9), until that reaches `decay`.

    Args:
        followed: The parameters by name.
        decay: How much of the old average stays at each step, 0 to below 1.
    """

    def __init__(self, followed: dict[str, nn.Parameter], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._followed = list(followed.values())
        for name, parameter in followed.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(parameter.detach().clone(), requires_grad=False))
        self._averages: list[torch.Tensor] = list(self.parameters())
        self.steps = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in, after an optimiser's step."""
        steps = int(self.steps)
        stays = min(self.decay, steps / (steps + SHORT))
        torch._foreach_lerp_(self._averages, [p.detach() for p in self._followed], 1 - stays)
        self.steps.add_(1)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the model has the averages for its weights; after it, its own again, bit for bit."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Let the model and the averages change places, if there was a step yet."""
        for parameter, average in zip(self._followed, self._averages, strict=True) if int(self.steps) else ():
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)


def add_averages(parts: Parts, decay: float) -> None:
    """Put a part with the averages of all trained parameters beside the parts."""
    trained = {name: part for name, part in parts.items() if part.mode == "trained"}
    followed = {
        f"{name}/{inside}": parameter
        for name, part in trained.items()
        for inside, parameter in part.module.named_parameters()
        if parameter.requires_grad
    }
    parts[NAME] = Part(Averages(followed, decay), "ema")


def averages_of(parts: Parts) -> Averages | None:
    """Return the averages among the parts, or None."""
    module = parts[NAME].module if NAME in parts else None
    assert module is None or isinstance(module, Averages)
    return module


@contextmanager
def averaged(parts: Parts, optimiser: torch.optim.Optimizer | None = None) -> Iterator[None]:
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


class Exchanging(Protocol):
    """What has the weights that are measured and saved, where those are not the weights that are trained."""

    def exchange(self) -> None:
        """Let the model have them; the next call gives it its own back, bit for bit."""


def exchanging(parts: Parts, optimiser: torch.optim.Optimizer | None) -> Exchanging | None:
    """Return the averages among the parts, or an optimiser that averages the weights itself, or None."""
    averages = averages_of(parts)
    if averages is None and hasattr(optimiser, "exchange"):
        of_optimiser: Exchanging = optimiser  # type: ignore[assignment]
        return of_optimiser
    return averages
