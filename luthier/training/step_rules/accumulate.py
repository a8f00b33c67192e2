"""The plain step: gradients of micro-batches added up, divided once by the weight of the whole step."""

from __future__ import annotations

from contextlib import AbstractContextManager

from luthier.core.work import Batch, Parts
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import Losses, StepRule


@step_rules.add
class Accumulate(StepRule):
    """Any split of the window into micro-batches gives the same gradient, because the weight is known before."""

    def gradient(self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object]) -> dict[str, float]:
        """Run forward and backward over each micro-batch."""
        weights: dict[str, float] = {}
        for batch in window:
            for name, weight in work.weights(batch).items():
                weights[name] = weights.get(name, 0.0) + weight
        means = {"total": 0.0}
        for batch in window:
            with cast:
                terms = work.losses(parts, batch)
            shares = {name: term.coefficient * term.sum / max(weights[name], 1e-12) for name, term in terms.items()}
            total = sum(shares.values())
            total.backward()  # type: ignore[union-attr]
            for name, share in shares.items():
                means[name] = means.get(name, 0.0) + float(share.detach())
                means["total"] += float(share.detach())
        return means
