"""Triplet loss: the second text is to be nearer to the first than a wrong one, by a margin."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from luthier.losses.pairs import pair_losses
from luthier.losses.pairs.pair_loss import Compared, PairLoss, example_texts


@pair_losses.add
class Triplet(PairLoss):
    """How much nearer the hardest wrong text is than the second one, and a margin; distances are 1 - cosine.

    Wrong is the negative that the row brings along; for a row without one, whatever other rows of the batch have beside their first texts.

    Reference: Schroff et al., https://arxiv.org/abs/1503.03832
    """

    needs_scores: ClassVar[bool] = False
    additive: ClassVar[bool] = False
    margin: float = Field(0.3, ge=0, le=2, description="How much nearer the second text is to be; distances are 0 to 2.")

    def __call__(self, compared: Compared) -> Tensor:
        """Return the sum over the rows; a row without any wrong text adds nothing."""
        own_BC = compared.own_negative_BC
        taken_BC = compared.wrong_BC & (own_BC | ~own_BC.any(1, keepdim=True))
        nearest_B = compared.cosines_BC.masked_fill(~taken_BC, float("-inf")).amax(1)
        return (nearest_B - compared.cosines_B + self.margin).relu().sum()

    @classmethod
    def example(cls) -> tuple[Triplet, Compared]:
        """Return the loss over three rows."""
        return cls(margin=0.5), example_texts()
