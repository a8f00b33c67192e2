"""Decay with the inverse square root of the step."""

from __future__ import annotations

from pydantic import Field

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule


@schedules.add
class InverseSqrt(Schedule):
    """The highest rate / sqrt(1 + step / timescale): it does not depend on how long the run is, so a run can be made longer.

    Reference: https://arxiv.org/abs/1706.03762, transformers.get_inverse_sqrt_schedule
    """

    timescale: Duration | None = Field(
        None, description="How long until the rate has fallen to 71 % (1 / sqrt(2)), such as '500 steps'; none: as long as the warm-up."
    )

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the curve."""
        timescale = horizon.warmup + 1 if self.timescale is None else max(horizon.steps(self.timescale), 1)
        return float((timescale / (timescale + step)) ** 0.5)

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end where a third of 100 steps is the timescale: 1 / sqrt(1 + 3)."""
        return cls(timescale=Duration(33, "steps"), warmup=Duration(1, "steps")), 0.5
