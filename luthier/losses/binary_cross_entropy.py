"""Binary cross-entropy: each label is a yes or no of its own."""

from __future__ import annotations

from torch import Tensor, tensor
from torch.nn import functional

from luthier.losses import losses
from luthier.losses.loss import Loss


@losses.add
class BinaryCrossEntropy(Loss):
    """Negative log-probability of each label's yes or no, with a sigmoid per label.

    A class weight counts for the rows that have the label.
    """

    problems = frozenset({"multi-label"})

    def per_target(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row and label, `(B, C)`."""
        return functional.binary_cross_entropy_with_logits(logits_BC, targets.float(), reduction="none")

    @classmethod
    def example(cls) -> tuple[Loss, Tensor, Tensor]:
        """Return binary cross-entropy over three rows and two labels."""
        return cls(), tensor([[2.0, -1.0], [0.5, 0.2], [-1.0, 3.0]]), tensor([[1, 0], [0, 0], [1, 1]])
