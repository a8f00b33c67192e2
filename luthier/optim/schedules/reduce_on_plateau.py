"""Decay when the validation scores no longer improve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule


@schedules.add
class ReduceOnPlateau(Schedule):
    """The highest rate, multiplied by gamma each time that the validation score has not improved for a while.

    The score is the one that picks the best step. A patience of n is one of n - 1 in torch, which waits for one more.

    Reference: torch.optim.lr_scheduler.ReduceLROnPlateau
    """

    watches_scores: ClassVar[bool] = True
    gamma: float = Field(0.5, gt=0, lt=1, description="What the rate is multiplied by each time.")
    patience: int = Field(1, ge=1, description="Evaluations without a better score before the rate falls.")
    min_delta: float = Field(0.0, ge=0, description="How much better a score must be to count.")
    cooldown: int = Field(0, ge=0, description="Evaluations after a fall that are not counted.")
    end_factor: float = Field(0.0, ge=0, le=1, description="Share of the highest rate below which it does not fall.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return 1: what makes the rate fall is not the step."""
        return 1.0

    def share_left(self, scores: Sequence[float]) -> float:
        """Return gamma to the power of how often the score stood still, but not less than the end factor."""
        best, still, resting, left = -float("inf"), 0, 0, 1.0
        for score in scores:
            best, still = (score, 0) if score > best + self.min_delta else (best, still + 1)
            if resting > 0:
                resting, still = resting - 1, 0
            if still >= self.patience:
                left, still, resting = max(left * self.gamma, self.end_factor), 0, self.cooldown
        return left

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end where the score improves at each evaluation, 1."""
        return cls(), 1.0
