"""One cycle up and down."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule, progress


@schedules.add
class OneCycle(Schedule):
    """A long rise to a high rate, then down to far below where it began; momentum stays as it is.

    Reference: https://arxiv.org/abs/1708.07120, torch.optim.lr_scheduler.OneCycleLR
    """

    warmup: Duration = Field(Duration(30, "%"), description="How long the rate rises to its highest, such as '30%' or '100 steps'.")
    start_factor: float = Field(0.04, ge=0, le=1, description="Share of the highest rate at which the cycle begins.")
    end_factor: float = Field(4e-6, ge=0, le=1, description="Share of the highest rate that is left at the end.")
    shape: Literal["cosine", "linear"] = Field("cosine", description="How the rate falls; it rises in a straight line.")

    @property
    def first_factor(self) -> float:
        """Share of the highest rate from which the warm-up rises."""
        return self.start_factor

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the way down."""
        done = progress(step, horizon)
        left = 1 - done if self.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.end_factor + (1 - self.end_factor) * left

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 4e-6."""
        return cls(), 4e-6
