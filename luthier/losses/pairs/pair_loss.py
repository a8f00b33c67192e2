"""What every loss over pairs is.

B rows, W texts of all rows, K negatives that rows bring along, C = B + K candidates (the second texts, then the negatives), H width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.core.config import Registered

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Compared:
    """The texts of some rows as vectors of length 1.

    Args:
        firsts_BH: First text of each row.
        seconds_BH: Its second text.
        negatives_KH: Texts that are given as wrong ones.
        negative_row_K: The row that each of them belongs to.
        keys_B2: A number for the first and the second text of each row; equal texts have equal numbers.
        negative_key_K: The same for the negatives.
        scores_B: How alike the two texts of each row are, 0 to 1, where it is known.
    """

    firsts_BH: Tensor
    seconds_BH: Tensor
    negatives_KH: Tensor
    negative_row_K: Tensor
    keys_B2: Tensor
    negative_key_K: Tensor
    scores_B: Tensor | None = None

    @classmethod
    def of(cls, vectors_WH: Tensor, targets: Mapping[str, Tensor], *, width: int | None = None, scores_B: Tensor | None = None) -> Compared:
        """Return the texts of a batch.

        Args:
            vectors_WH: A vector for each text, float32.
            targets: `first`, `second`, `negative` (which vectors those are), `negative_row` and `key`.
            width: Numbers of each vector that are compared; none: all.
            scores_B: How alike the two texts of each row are, 0 to 1.
        """
        import torch
        from torch.nn import functional

        units_WH, key_W = functional.normalize(vectors_WH[:, :width], dim=-1), targets["key"]
        first_B, second_B, negative_K = (targets[name] for name in ("first", "second", "negative"))
        keys_B2 = torch.stack([key_W[first_B], key_W[second_B]], dim=1)
        texts = (units_WH[first_B], units_WH[second_B], units_WH[negative_K])
        return cls(*texts, targets["negative_row"], keys_B2, key_W[negative_K], scores_B)

    @property
    def cosines_B(self) -> Tensor:
        """Cosine of the angle between the two texts of each row."""
        return (self.firsts_BH * self.seconds_BH).sum(-1)

    @property
    def cosines_BC(self) -> Tensor:
        """Cosine of the angle between each first text and every candidate."""
        import torch

        return self.firsts_BH @ torch.cat([self.seconds_BH, self.negatives_KH]).T

    @property
    def wrong_BC(self) -> Tensor:
        """Whether a candidate is a wrong one for a first text: no second text that it has here or in another row."""
        import torch

        first_B, second_B = self.keys_B2.unbind(1)
        key_C = torch.cat([second_B, self.negative_key_K])
        right_BC = key_C == second_B[:, None]
        right_BC[:, : len(first_B)] |= first_B == first_B[:, None]
        return ~right_BC

    @property
    def own_negative_BC(self) -> Tensor:
        """Whether a candidate is a negative that the row itself brings along."""
        import torch

        rows_B = torch.arange(len(self.keys_B2), device=self.keys_B2.device)
        return torch.cat([torch.full_like(rows_B, -1), self.negative_row_K]) == rows_B[:, None]


class PairLoss(Registered, ABC):
    """Looks at cosines alone. A new loss says whether it needs scores, whether rows meet in it, and its sum over the rows."""

    needs_scores: ClassVar[bool]
    additive: ClassVar[bool]
    """Whether no rows of a batch meet in it."""

    @abstractmethod
    def __call__(self, compared: Compared) -> Tensor:
        """Return the sum over the rows, a scalar in float32."""

    def weight(self, num_rows: int) -> float:
        """Return what that sum is divided by: the number of rows."""
        return float(num_rows)

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Any, Compared]:
        """Return a loss and texts that the contract tests run on."""


def example_texts() -> Compared:
    """Return three rows in the plane with scores 1, 0.5 and 0; the first brings a negative along."""
    import torch

    vectors_WH = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 3.0]])
    places = {"first": [0, 3, 5], "second": [1, 4, 6], "negative": [2], "negative_row": [0], "key": [0, 1, 2, 3, 4, 5, 6]}
    targets = {name: torch.tensor(numbers) for name, numbers in places.items()}
    return Compared.of(vectors_WH, targets, scores_B=torch.tensor([1.0, 0.5, 0.0]))
