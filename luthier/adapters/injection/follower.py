"""What every follower is: an adapter's own part in each step of a training."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Follower(nn.Module, ABC):
    """Follows a training step by step; its memory is its parameters, which have no gradient, so that checkpoints hold it."""

    term: str
    """Name of its term of the loss."""

    coefficient: float
    """Coefficient of that term."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """Return what is added to the mean loss of a step, times the coefficient."""

    @abstractmethod
    def after_step(self) -> None:
        """Take a step of the optimiser in, while the gradients that it went by are still there."""
