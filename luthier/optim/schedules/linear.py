"""Linear decay."""

from __future__ import annotations

from pydantic import Field

from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule, progress


@schedules.add
class Linear(Schedule):
    """A straight line down: 1 - (1 - end_factor) * progress."""

    end_factor: float = Field(0.0, ge=0, le=1, description="Share of the highest rate that is left at the end.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the line."""
        return 1 - (1 - self.end_factor) * progress(step, horizon)

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 0.1."""
        return cls(end_factor=0.1), 0.1
