"""What every contrast is: a loss over how alike the rows of a batch are.

B rows, A anchors (the rows that have others to be compared with), H width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from luthier.core.config import Registered
from luthier.core.work import Weighted

if TYPE_CHECKING:
    from torch import Tensor


class Contrast(Registered, ABC):
    """Stands beside a loss over classes, times `weight`; the rows of a batch meet in it.

    A new contrast says its value for each anchor (`per_anchor`), and whether an anchor needs rows of another class (`needs_others`).
    """

    needs_others: ClassVar[bool] = True
    weight: float = Field(0.1, gt=0, description="How much it counts beside the loss over classes, which counts 1.")

    @abstractmethod
    def per_anchor(self, likeness_AB: Tensor, same_AB: Tensor, other_AB: Tensor) -> Tensor:
        """Return the loss of each anchor, `(A,)`.

        Args:
            likeness_AB: Cosine of the angle between an anchor and each row, -1 to 1.
            same_AB: Whether the row is another one of the anchor's class; each anchor has at least one.
            other_AB: Whether the row is of another class.
        """

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Contrast, Tensor, Tensor]:
        """Return a contrast, vectors `(B, H)` and class numbers `(B,)` that the contract tests run on."""

    def anchors(self, targets_B: Tensor) -> Tensor:
        """Return which rows have rows to be compared with, `(B,)`; known before the forward pass."""
        same_BB, other_BB = _compared(targets_B)
        found_B = same_BB.any(1)
        return found_B & other_BB.any(1) if self.needs_others else found_B

    def __call__(self, vectors_BH: Tensor, targets_B: Tensor) -> Weighted:
        """Return the sum over the anchors, and how many there are, in float32.

        Args:
            vectors_BH: A vector for each row; only its direction counts.
            targets_B: Class numbers.

        Shape: both results are scalars.
        """
        import torch
        from torch.nn import functional

        anchor_B = self.anchors(targets_B)
        number = anchor_B.sum().float()
        if not anchor_B.any():
            return Weighted(vectors_BH.float().sum() * 0, number)
        with torch.autocast(vectors_BH.device.type, enabled=False):
            units_BH = functional.normalize(vectors_BH.float(), dim=-1)
            likeness_AB = units_BH[anchor_B] @ units_BH.T
        same_BB, other_BB = _compared(targets_B)
        return Weighted(self.per_anchor(likeness_AB, same_BB[anchor_B], other_BB[anchor_B]).sum(), number)


def _compared(targets_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs are two rows of one class, and which are of two classes."""
    alike_BB = targets_B.unsqueeze(1) == targets_B.unsqueeze(0)
    return alike_BB.clone().fill_diagonal_(False), ~alike_BB
