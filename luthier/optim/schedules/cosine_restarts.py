"""Cosine decay, again and again."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule, progress

ALMOST = 1e-9  # of a cycle: a step that rounding puts just before a restart is the restart


@schedules.add
class CosineRestarts(Schedule):
    """Half a cosine down, then at once up to the highest rate and down again: the cycles fill the run.

    Reference: https://arxiv.org/abs/1608.03983 (SGDR; growth is its T_mult)
    """

    rises_again: ClassVar[bool] = True
    cycles: int = Field(3, ge=1, description="How often the rate falls from its highest.")
    growth: float = Field(1.0, ge=1, description="How many times as long each cycle is as the one before.")
    end_factor: float = Field(0.0, ge=0, le=1, description="Share of the highest rate that is left at the end of each cycle.")

    def after_warmup(self, step: int, horizon: Horizon) -> float:
        """Return the point on the curve of the cycle that the step is in."""
        lengths = [self.growth**cycle for cycle in range(self.cycles)]
        left = progress(step, horizon) * sum(lengths)
        for length in lengths[:-1]:
            if left < length * (1 - ALMOST):
                break
            left = max(left - length, 0.0)
        else:
            length = lengths[-1]
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * min(left / length, 1.0))) / 2

    @classmethod
    def example(cls) -> tuple[Schedule, float]:
        """Return three cycles, each twice as long as the one before, and their end, 0.1."""
        return cls(growth=2.0, end_factor=0.1), 0.1
