"""Decay in stairs."""

from __future__ import annotations

from pydantic import Field

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule


@schedules.add
class Step(Schedule):
    """Multiplied by gamma once every so often: gamma ** floor(step / every)."""

    every: Duration = Field(Duration(1, "epochs"), description="How long each stair is, such as '1 epoch'.")
    gamma: float = Field(0.5, gt=0, le=1, description="What the rate is multiplied by at each stair.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the height of the stair."""
        return self.gamma ** (step // max(horizon.steps(self.every), 1))

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return stairs of a quarter of the run and their end, 0.5 ** 4."""
        return cls(every=Duration(25, "%"), gamma=0.5, warmup=Duration(0, "steps")), 0.0625
