"""Multiple negatives: each first text is to find its second among those of the whole batch."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from luthier.losses.pairs import pair_losses
from luthier.losses.pairs.pair_loss import Compared, PairLoss, example_texts


@pair_losses.add
class MultipleNegatives(PairLoss):
    """Cross-entropy over the cosines with all second texts of the batch, and with the negatives that rows bring along.

    Equal texts are never taken as wrong ones. Also known as InfoNCE with negatives of the batch.

    Reference: Henderson et al., https://arxiv.org/abs/1705.00652
    """

    needs_scores: ClassVar[bool] = False
    additive: ClassVar[bool] = False
    scale: float = Field(20.0, gt=0, description="What cosines are multiplied by; 1 divided by the temperature.")
    symmetric: bool = Field(False, description="Each second text is to find its first, too; the mean of both.")

    def __call__(self, compared: Compared) -> Tensor:
        """Return the sum over the rows."""
        scores_BC = compared.cosines_BC * self.scale
        rows_B = torch.arange(len(scores_BC), device=scores_BC.device)
        hidden_BC = ~compared.wrong_BC
        hidden_BC[rows_B, rows_B] = False
        scores_BC = scores_BC.masked_fill(hidden_BC, float("-inf"))
        there = functional.cross_entropy(scores_BC, rows_B, reduction="sum")
        if not self.symmetric:
            return there
        return (there + functional.cross_entropy(scores_BC[:, : len(rows_B)].T, rows_B, reduction="sum")) / 2

    @classmethod
    def example(cls) -> tuple[MultipleNegatives, Compared]:
        """Return the loss over three rows."""
        return cls(scale=2.0), example_texts()
