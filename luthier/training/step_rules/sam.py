"""SAM: the gradient at the worst weights nearby, which leads to minima that are flat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import torch
from pydantic import Field

from luthier.core.work import Batch, Parts
from luthier.training.shares import Shares
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.world import ALONE, World


@step_rules.add
class Sam(StepRule):
    """The gradient with all weights moved by `rho` along their gradient; the weights are put back before the optimiser's step.

    The loss that is told is that of the weights as they are. Two passes for each step, and memory for a second copy of the weights.

    Reference: Foret et al., https://arxiv.org/abs/2010.01412
    """

    needs_whole_weights: ClassVar[bool] = True
    copies_of_weights: ClassVar[int] = 1
    rho: float = Field(0.05, gt=0, description="Length of the move, over all trained weights together.")

    @property
    def passes(self) -> float:
        """Those of the weights as they are, and of the moved ones."""
        return 2.0

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add the gradient of the whole window at the moved weights."""
        shares = Shares(work, parts, window, cast, world)
        _derive(shares, window, counted=1.0)
        with _moved(parts, self.rho):
            _derive(shares, window, counted=0.0)
        return shares.means()


def _derive(shares: Shares, window: list[Batch], *, counted: float) -> None:
    for number, batch in enumerate(window, start=1):
        with shares.world.syncing(shares.parts, last=number == len(window)):
            shares.forward(batch, counted=counted).backward()


@contextmanager
def _moved(parts: Parts, rho: float) -> Iterator[None]:
    """Within the context, the weights are moved along their gradient, which is dropped; after it they are what they were, bit for bit."""
    trained = [p for part in parts.values() if part.mode == "trained" for p in part.module.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
    before = [p.detach().clone() for p in trained]
    try:
        with torch.no_grad():
            for p in trained if norm != 0 else ():  # a norm that is not finite spoils the second gradient too, and the step is skipped
                assert p.grad is not None
                p.add_(p.grad, alpha=rho / norm)
        for p in trained:
            p.grad = None
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(trained, before, strict=True):
                p.copy_(old)
