"""Cosine decay."""

from __future__ import annotations

import math

from pydantic import Field

from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule, progress


@schedules.add
class Cosine(Schedule):
    """Half a cosine down: end_factor + (1 - end_factor) * (1 + cos(pi * progress)) / 2.

    Reference: https://arxiv.org/abs/1608.03983
    """

    end_factor: float = Field(0.0, ge=0, le=1, description="Share of the highest rate that is left at the end.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the curve."""
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress(step, horizon))) / 2

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 0.1."""
        return cls(end_factor=0.1), 0.1
