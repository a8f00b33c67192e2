"""What each micro-batch adds to the mean loss of a step: the weights of the whole step are known before its first forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor

from luthier.core.work import Batch, Parts
from luthier.training.step_rules.step_rule import Losses
from luthier.training.world import World


class Shares:
    """The loss terms of one step, divided by the weight of the whole step, and their means so far.

    Args:
        work: Gives weights and losses of a batch.
        parts: Named modules.
        window: This process's micro-batches of the step.
        cast: Context of the forward pass.
        world: The processes; gradients are averaged over them, so what is to be derived is multiplied by their number.
    """

    def __init__(self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World) -> None:
        self.work, self.parts, self.cast, self.world = work, parts, cast, world
        self.weights = world.sum(_total_weights(work, window))
        self._counted: list[tuple[str, float, Tensor]] = []

    def forward(self, batch: Batch, *, counted: float = 1.0) -> Tensor:
        """Run a forward pass, and return what is to be derived.

        Args:
            batch: A micro-batch of the window.
            counted: How much of this pass is counted in the means, 0 to 1.
        """
        with self.cast:
            terms = self.work.losses(self.parts, batch)
        factor = float(batch.counts)
        shares = {name: factor * term.coefficient * term.sum / max(self.weights[name], 1e-12) for name, term in terms.items()}
        if counted:
            self._counted += [(name, counted, share.detach()) for name, share in shares.items()]
        total: Tensor = sum(shares.values()) * self.world.size  # type: ignore[assignment]
        return total

    def means(self) -> dict[str, float]:
        """Return the mean of each term and their `total`, over all processes."""
        means = dict.fromkeys(("total", *self.weights), 0.0)
        for name, counted, share in self._counted:
            means[name] += counted * float(share)
            means["total"] += counted * float(share)
        return self.world.sum(means)


def _total_weights(work: Losses, window: list[Batch]) -> dict[str, float]:
    total: dict[str, float] = {}
    for batch in window:
        for name, weight in work.weights(batch).items():
            total[name] = total.get(name, 0.0) + weight * batch.counts
    return total
