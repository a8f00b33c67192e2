"""Triplet loss: the furthest row of the same class is to be nearer than the nearest of another class."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, tensor

from luthier.losses.contrasts import contrasts
from luthier.losses.contrasts.contrast import Contrast

LEAST = 1e-6  # of a squared distance: the slope of its root is infinite at 0


@contrasts.add
class Triplet(Contrast):
    """How much further the furthest row of the same class is than the nearest of another class, and a margin (batch-hard).

    Distances are those of vectors of length 1, so 0 to 2.

    Reference: Hermans et al., https://arxiv.org/abs/1703.07737
    """

    margin: float = Field(0.3, ge=0, le=2, description="How much nearer rows of the same class are to be; distances are 0 to 2.")

    def per_anchor(self, likeness_AB: Tensor, same_AB: Tensor, other_AB: Tensor) -> Tensor:
        """Return the loss of the hardest triplet of each anchor, `(A,)`."""
        distance_AB = (2 - 2 * likeness_AB).clamp(min=LEAST).sqrt()
        furthest_A = distance_AB.masked_fill(~same_AB, float("-inf")).amax(1)
        nearest_A = distance_AB.masked_fill(~other_AB, float("inf")).amin(1)
        return (furthest_A - nearest_A + self.margin).relu()

    @classmethod
    def example(cls) -> tuple[Contrast, Tensor, Tensor]:
        """Return the loss over four rows of two classes, and a row alone in its class."""
        vectors_BH = tensor([[1.0, 0.1], [0.8, 0.6], [-1.0, 0.2], [0.1, -1.0], [0.5, 0.5]])
        return cls(margin=0.5), vectors_BH, tensor([0, 0, 1, 1, 2])
