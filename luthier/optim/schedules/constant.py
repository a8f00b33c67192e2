"""Constant rate after the warm-up."""

from __future__ import annotations

from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule


@schedules.add
class Constant(Schedule):
    """The highest rate until the end: factor 1."""

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return 1."""
        return 1.0

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 1."""
        return cls(), 1.0
