"""GradCache: a loss over all rows of a step, in the memory of one of its batches.

W texts of a batch, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from luthier.core.work import Batch, Parts, Terms
from luthier.training.memory import dropout_state, restore_dropout
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.accumulate import Accumulate
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.world import ALONE, World


@runtime_checkable
class Gathered(Losses, Protocol):
    """A task at work whose loss looks at nothing but a vector of each text."""

    def vectors(self, parts: Parts, batch: Batch) -> Tensor:
        """Return the vectors, `(W, H)`."""

    def terms(self, vectors_WH: Tensor, batch: Batch) -> Terms:
        """Return the loss over vectors."""

    def joined(self, batches: Sequence[Batch]) -> Batch:
        """Return what the loss needs of several batches as if they were one."""


@step_rules.add
class GradCache(StepRule):
    """All rows of a step meet in the loss, however many batches they are in: the gradient is that of one large batch.

    The vectors of all batches are computed without gradients, then the loss and its gradient by the vectors; then each batch is computed
    again, with the same dropout, and passes its part of that gradient on. Two forward passes for each batch. Where no rows meet in the
    loss this is the plain step.

    Reference: Gao et al., https://arxiv.org/abs/2101.06983
    """

    gathers: ClassVar[bool] = True

    @property
    def passes(self) -> float:
        """The forward pass of the vectors goes first."""
        return 4 / 3

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add the gradient of the loss over the whole window."""
        if not isinstance(work, Gathered):
            return Accumulate().gradient(work, parts, window, cast, world)
        states, found = [], []
        with torch.no_grad():
            for batch in window:
                states.append(dropout_state())
                with cast:
                    found.append(work.vectors(parts, batch))
        leaf_WH = torch.cat(found).detach().requires_grad_()
        means = _derived(work, leaf_WH, work.joined(window))
        assert leaf_WH.grad is not None
        gradients = leaf_WH.grad.split([len(vectors_WH) for vectors_WH in found])
        for batch, state, gradient_WH in zip(window, states, gradients, strict=True):
            restore_dropout(*state)
            with cast:
                vectors_WH = work.vectors(parts, batch)
            vectors_WH.backward(gradient_WH)
        return means


def _derived(work: Gathered, leaf_WH: Tensor, batch: Batch) -> dict[str, float]:
    """Put the gradient of the mean loss into the vectors, and return the mean of each term and their `total`."""
    weights = work.weights(batch)
    terms = work.terms(leaf_WH, batch)
    shares = {name: term.coefficient * term.sum / max(weights[name], 1e-12) for name, term in terms.items()}
    total = sum(shares.values(), leaf_WH.new_zeros(()))
    total.backward()
    return {"total": float(total.detach()), **{name: float(share.detach()) for name, share in shares.items()}}
