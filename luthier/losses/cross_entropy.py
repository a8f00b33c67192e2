"""Cross-entropy: one right class per row."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, tensor
from torch.nn import functional

from luthier.losses import losses
from luthier.losses.loss import Loss


@losses.add
class CrossEntropy(Loss):
    """Negative log-probability of the right class.

    Args:
        label_smoothing: Share of the probability spread evenly over all classes, 0 to below 1.

    Reference: label smoothing, https://arxiv.org/abs/1512.00567
    """

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the probability that is spread evenly over all classes.")

    def per_target(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, `(B,)`."""
        return functional.cross_entropy(logits_BC, targets, label_smoothing=self.label_smoothing, reduction="none")

    @classmethod
    def example(cls) -> tuple[Loss, Tensor, Tensor]:
        """Return smoothed cross-entropy over three rows and classes."""
        return cls(label_smoothing=0.1), tensor([[2.0, 0.0, -1.0], [0.5, 0.2, 0.1], [-1.0, 3.0, 0.0]]), tensor([0, 2, 1])
