"""The plain step: gradients of micro-batches added up, divided once by the weight of the whole step."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.core.work import Batch, Parts
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
        weights = world.sum(_total_weights(work, window))
        means = dict.fromkeys(("total", *weights), 0.0)
        for number, batch in enumerate(window, start=1):
            with world.syncing(parts, last=number == len(window)):
                with cast:
                    terms = work.losses(parts, batch)
                factor = float(batch.counts)
                shares = {name: factor * term.coefficient * term.sum / max(weights[name], 1e-12) for name, term in terms.items()}
                total = sum(shares.values()) * world.size
                total.backward()  # type: ignore[union-attr]
            for name, share in shares.items():
                means[name] += float(share.detach())
                means["total"] += float(share.detach())
        return world.sum(means)


def _total_weights(work: Losses, window: list[Batch]) -> dict[str, float]:
    total: dict[str, float] = {}
    for batch in window:
        for name, weight in work.weights(batch).items():
            total[name] = total.get(name, 0.0) + weight * batch.counts
    return total
