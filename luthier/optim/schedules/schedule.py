"""What every learning-rate schedule is: a pure function of the step, or of it and the scores so far: a resume is exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field, field_validator

from luthier.core.config import Registered
from luthier.core.units import Duration


@dataclass(frozen=True)
class Horizon:
    """How long the run is: `total_steps` optimiser steps, `steps_per_epoch` of them in one pass, `warmup` more before them."""

    total_steps: int
    steps_per_epoch: int
    warmup: int = 0

    def steps(self, duration: Duration) -> int:
        """Return a duration of this run in steps."""
        return duration.steps(total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch)


class Schedule(Registered, ABC):
    """Warm-up from 0 (or from where the schedule says), then the shape that the schedule gives.

    Args:
        warmup: How long the rate rises from 0 to its highest.
    """

    warmup: Duration = Field(Duration(6, "%"), description="How long the rate rises from 0 to its highest, such as '6%' or '100 steps'.")

    rises_again: ClassVar[bool] = False
    """Whether the rate may rise after the warm-up."""

    watches_scores: ClassVar[bool] = False
    """Whether the rate goes by the validation scores too, so that there must be some."""

    @property
    def first_factor(self) -> float:
        """Share of the highest rate from which the warm-up rises."""
        return 0.0

    @field_validator("*")
    @classmethod
    def _known_length(cls, value: object) -> object:
        if isinstance(value, Duration) and value.unit in ("samples", "tokens"):
            raise ValueError(f"got {str(value)!r}: a schedule counts in epochs, steps or %")
        return value

    def factor(self, step: int, horizon: Horizon) -> float:
        """Return what the highest rate is multiplied by at step `step` (from 0)."""
        warmup = horizon.steps(self.warmup)
        if step < warmup:
            return self.first_factor + (1 - self.first_factor) * (step + 1) / (warmup + 1)
        return self.after_warmup(step - warmup, Horizon(max(horizon.total_steps - warmup, 1), horizon.steps_per_epoch, warmup))

    @abstractmethod
    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the factor at `step` after the warm-up, where `horizon` counts the steps that are left then."""

    def share_left(self, scores: Sequence[float]) -> float:
        """Return what the factor is multiplied by after some evaluations: 1, but for a schedule that watches them.

        Args:
            scores: Validation scores of the run so far, oldest first, turned so that higher is better.
        """
        return 1.0

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return a schedule and the factor it ends at, for the contract tests."""


def progress(step: int, horizon: Horizon) -> float:
    """Return how far the run is, from 0 to 1."""
    return min(step / horizon.total_steps, 1.0)
