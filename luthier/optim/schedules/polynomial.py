"""Polynomial decay."""

from __future__ import annotations

from pydantic import Field

from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule, progress


@schedules.add
class Polynomial(Schedule):
    """A power of what is left of the run: end_factor + (1 - end_factor) * (1 - progress) ** power.

    Reference: transformers.get_polynomial_decay_schedule_with_warmup
    """

    power: float = Field(2.0, gt=0, description="1 is a straight line; more falls fast first, less falls late.")
    end_factor: float = Field(0.0, ge=0, le=1, description="Share of the highest rate that is left at the end.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the curve."""
        return self.end_factor + (1 - self.end_factor) * float((1 - progress(step, horizon)) ** self.power)

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 0.1."""
        return cls(end_factor=0.1), 0.1
