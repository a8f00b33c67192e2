"""Cosine loss: the cosine of two texts is to be their score."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from luthier.losses.pairs import pair_losses
from luthier.losses.pairs.pair_loss import Compared, PairLoss, example_texts


@pair_losses.add
class Cosine(PairLoss):
    """Squared difference between the cosine of two texts and their score, which is scaled to 0 to 1; for pairs with scores.

    Reference: Reimers and Gurevych, https://arxiv.org/abs/1908.10084
    """

    needs_scores: ClassVar[bool] = True
    additive: ClassVar[bool] = True

    def __call__(self, compared: Compared) -> Tensor:
        """Return the sum of the squared differences."""
        assert compared.scores_B is not None, "the rows have scores"
        return ((compared.cosines_B - compared.scores_B) ** 2).sum()

    @classmethod
    def example(cls) -> tuple[Cosine, Compared]:
        """Return the loss over three rows."""
        return cls(), example_texts()
