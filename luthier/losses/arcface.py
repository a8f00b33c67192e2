"""ArcFace: the angle to the right class has to be smaller than to all others by a margin."""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor, tensor, where
from torch.nn import functional

from luthier.losses import losses
from luthier.losses.loss import Loss

CERTAIN = 1e-6  # a cosine is at least this far from 1 and -1, where the slope of its angle is infinite


@losses.add
class ArcFace(Loss):
    """Cross-entropy of cosines, with a margin added to the angle of the right class; the head gives cosines times `scale`.

    Beyond an angle of pi minus the margin, where a larger one would cost less, the cosine itself is lowered instead.

    Args:
        margin: What is added to the angle, in radians.
        scale: What cosines are multiplied by.

    Reference: https://arxiv.org/abs/1801.07698, with a margin of 0.5 and a scale of 64 for faces
    """

    margin: float = Field(0.3, ge=0, lt=1.5, description="What is added to the angle of the right class, in radians.")
    scale: float = Field(16.0, gt=0, description="What cosines are multiplied by to be scores; the head has it too.")

    @property
    def cosine_scale(self) -> float | None:
        """The head gives cosines times this."""
        return self.scale

    def per_target(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, `(B,)`."""
        column_B1 = targets.unsqueeze(1)
        cosine_B1 = (logits_BC.gather(1, column_B1) / self.scale).clamp(CERTAIN - 1, 1 - CERTAIN)
        further_B1 = cosine_B1 * math.cos(self.margin) - (1 - cosine_B1.square()).sqrt() * math.sin(self.margin)
        lowered_B1 = where(cosine_B1 > -math.cos(self.margin), further_B1, cosine_B1 - self.margin * math.sin(self.margin))
        return functional.cross_entropy(logits_BC.scatter(1, column_B1, self.scale * lowered_B1), targets, reduction="none")

    @classmethod
    def example(cls) -> tuple[Loss, Tensor, Tensor]:
        """Return the loss over three rows and classes."""
        return cls(margin=0.2, scale=4.0), tensor([[2.0, 0.0, -1.0], [0.5, 0.2, 0.1], [-1.0, 3.0, 0.0]]), tensor([0, 2, 1])
