"""REX, the reflected exponential."""

from __future__ import annotations

from pydantic import Field

from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule, progress


@schedules.add
class Rex(Schedule):
    """High for long, then down faster and faster: (1 - progress) / (1/2 + (1 - progress) / 2).

    Reference: https://arxiv.org/abs/2107.04197
    """

    end_factor: float = Field(0.0, ge=0, le=1, description="Share of the highest rate that is left at the end.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the curve."""
        left = 1 - progress(step, horizon)
        return self.end_factor + (1 - self.end_factor) * left / (0.5 + 0.5 * left)

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 0.1."""
        return cls(end_factor=0.1), 0.1
