"""Slanted triangle."""

from __future__ import annotations

from pydantic import Field

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule, progress


@schedules.add
class SlantedTriangular(Schedule):
    """A short rise from 1 / ratio and a long straight line back to it, as ULMFiT has it.

    Reference: https://arxiv.org/abs/1801.06146, equation 3; its cut_frac is the warm-up.
    """

    warmup: Duration = Field(Duration(10, "%"), description="How long the rate rises to its highest, such as '10%' or '100 steps'.")
    ratio: float = Field(32.0, ge=1, description="How many times the highest rate is the lowest, at the start and at the end.")

    @property
    def first_factor(self) -> float:
        """Share of the highest rate from which the warm-up rises."""
        return 1 / self.ratio

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the line."""
        return (1 + (1 - progress(step, horizon)) * (self.ratio - 1)) / self.ratio

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return the schedule and its end, 1 / 32."""
        return cls(), 1 / 32
