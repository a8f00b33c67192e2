"""CoSENT: pairs with higher scores are to have higher cosines."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from luthier.losses.pairs import pair_losses
from luthier.losses.pairs.pair_loss import Compared, PairLoss, example_texts


@pair_losses.add
class Cosent(PairLoss):
    """log(1 + sum of exp(scale x (cosine of the lower pair - cosine of the higher))), over all couples of pairs with different scores.

    Every batch counts once, however many rows it has. For pairs with scores, of which the order alone counts.

    Reference: Su, https://kexue.fm/archives/8847
    """

    needs_scores: ClassVar[bool] = True
    additive: ClassVar[bool] = False
    scale: float = Field(20.0, gt=0, description="What cosines are multiplied by: the higher, the more the worst couples count.")

    def __call__(self, compared: Compared) -> Tensor:
        """Return the loss of the batch."""
        assert compared.scores_B is not None, "the rows have scores"
        cosines_B, scores_B = compared.cosines_B * self.scale, compared.scores_B
        excess_BB = cosines_B[None, :] - cosines_B[:, None]
        wrong_BB = excess_BB.masked_fill(~(scores_B[:, None] > scores_B[None, :]), float("-inf"))
        return torch.cat([wrong_BB.new_zeros(1), wrong_BB.flatten()]).logsumexp(0)

    def weight(self, num_rows: int) -> float:
        """Return 1."""
        return 1.0

    @classmethod
    def example(cls) -> tuple[Cosent, Compared]:
        """Return the loss over three rows."""
        return cls(scale=2.0), example_texts()
