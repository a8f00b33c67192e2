"""Supervised contrastive loss: a row is to be more like those of its class than like all others."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, tensor

from luthier.losses.contrasts import contrasts
from luthier.losses.contrasts.contrast import Contrast


@contrasts.add
class SupervisedContrastive(Contrast):
    """Negative log-probability of the rows of the same class among all other rows, where what is more alike is more probable.

    Args:
        temperature: Likeness is divided by it; the lower, the more the closest rows count.

    Reference: Khosla et al., https://arxiv.org/abs/2004.11362; beside cross-entropy, Gunel et al., https://arxiv.org/abs/2011.01403
    """

    needs_others: ClassVar[bool] = False
    temperature: float = Field(0.1, gt=0, description="Likeness is divided by it; the lower, the more the closest rows count.")

    def per_anchor(self, likeness_AB: Tensor, same_AB: Tensor, other_AB: Tensor) -> Tensor:
        """Return the mean over the rows of the anchor's class, `(A,)`."""
        scores_AB = (likeness_AB / self.temperature).masked_fill(~(same_AB | other_AB), float("-inf"))
        costs_AB = scores_AB.logsumexp(1, keepdim=True) - likeness_AB / self.temperature
        return (costs_AB * same_AB).sum(1) / same_AB.sum(1)

    @classmethod
    def example(cls) -> tuple[Contrast, Tensor, Tensor]:
        """Return the loss over four rows of two classes, and a row alone in its class."""
        vectors_BH = tensor([[1.0, 0.1], [0.8, 0.6], [-1.0, 0.2], [0.1, -1.0], [0.5, 0.5]])
        return cls(temperature=0.5), vectors_BH, tensor([0, 0, 1, 1, 2])
