"""Warm-up, a long plateau, a short decay."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule


@schedules.add
class WarmupStableDecay(Schedule):
    """The highest rate until shortly before the end, then down: the plateau can be made longer without a new start.

    Reference: https://arxiv.org/abs/2404.06395 (MiniCPM), https://arxiv.org/abs/2405.18392 (1-sqrt), transformers.get_wsd_schedule
    """

    decay: Duration = Field(Duration(20, "%"), description="How long the rate falls at the end, such as '20%' of the run or '500 steps'.")
    shape: Literal["linear", "cosine", "1-sqrt"] = Field(
        "linear", description="How it falls: 1-sqrt is 1 minus the root of the decay done."
    )
    end_factor: float = Field(0.0, ge=0, le=1, description="Share of the highest rate that is left at the end.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return 1 on the plateau, then the point on the way down."""
        run = Horizon(horizon.warmup + horizon.total_steps, horizon.steps_per_epoch)
        decay = min(run.steps(self.decay), horizon.total_steps)
        fallen = step - (horizon.total_steps - decay)
        if fallen <= 0:
            return 1.0
        done = min(fallen / max(decay, 1), 1.0)
        left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "1-sqrt": 1 - done**0.5}[self.shape]
        return self.end_factor + (1 - self.end_factor) * left

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 0.1."""
        return cls(end_factor=0.1), 0.1
