"""The plain step: gradients of micro-batches added up, divided once by the weight of the whole step."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.core.work import Batch, Parts
from luthier.training.shares import Shares
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.world import ALONE, World


@step_rules.add
class Accumulate(StepRule):
    """Any split of the step into micro-batches or processes gives the same gradient, because the weight is known before."""

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Run forward and backward over each micro-batch; the processes' gradients are averaged, hence the factor."""
        shares = Shares(work, parts, window, cast, world)
        for number, batch in enumerate(window, start=1):
            with world.syncing(parts, last=number == len(window)):
                shares.forward(batch).backward()
        return shares.means()
