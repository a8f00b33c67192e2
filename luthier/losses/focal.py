"""Focal loss: down-weight the easy targets."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, tensor
from torch.nn import functional

from luthier.losses import losses
from luthier.losses.loss import Loss

CERTAIN = 1e-12  # doubt is at least this: the slope of doubt ** gamma at 0 is infinite for gamma below 1


@losses.add
class Focal(Loss):
    """Cross-entropy scaled by (1 - p) ** gamma, where p is the probability given to the truth.

    Args:
        gamma: How strongly easy targets are down-weighted, 0 (plain cross-entropy) to 8.

    Reference: https://arxiv.org/abs/1708.02002
    """

    problems = frozenset({"single-label", "multi-label"})
    gamma: float = Field(2.0, ge=0, le=8, description="How strongly easy targets are down-weighted; 0 is plain cross-entropy.")

    def per_target(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row `(B,)`, or of each row and label `(B, C)`."""
        if targets.ndim == 1:
            loss = functional.cross_entropy(logits_BC, targets, reduction="none")
        else:
            loss = functional.binary_cross_entropy_with_logits(logits_BC, targets.float(), reduction="none")
        doubt = (-(-loss).expm1()).clamp(min=CERTAIN)
        return doubt**self.gamma * loss

    @classmethod
    def example(cls) -> tuple[Loss, Tensor, Tensor]:
        """Return focal loss over three rows and classes."""
        return cls(gamma=1.5), tensor([[2.0, 0.0, -1.0], [0.5, 0.2, 0.1], [-1.0, 3.0, 0.0]]), tensor([0, 2, 1])
