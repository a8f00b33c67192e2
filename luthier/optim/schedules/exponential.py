"""Exponential decay."""

from __future__ import annotations

from pydantic import Field

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule


@schedules.add
class Exponential(Schedule):
    """Multiplied by gamma each epoch, smoothly: gamma ** epochs."""

    gamma: float = Field(0.5, gt=0, le=1, description="What the rate is multiplied by in one epoch.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return gamma to the power of the epochs since the warm-up."""
        return float(self.gamma ** (step / horizon.steps_per_epoch))

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end after four epochs, 0.5 ** 4."""
        return cls(gamma=0.5, warmup=Duration(0, "steps")), 0.0625
