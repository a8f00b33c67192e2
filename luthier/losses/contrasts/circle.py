"""Circle loss: pairs that are far from where they should be are moved faster."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, tensor
from torch.nn import functional

from luthier.losses.contrasts import contrasts
from luthier.losses.contrasts.contrast import Contrast


@contrasts.add
class Circle(Contrast):
    """Likeness within a class is to be above 1 - margin and between classes below margin; each pair counts by how far it is off.

    Reference: Sun et al., https://arxiv.org/abs/2002.10857
    """

    margin: float = Field(0.4, gt=0, lt=1, description="Likeness between classes is to be below it, within a class above 1 minus it.")
    scale: float = Field(80.0, gt=0, description="How sharply the pairs that are most off count.")

    def per_anchor(self, likeness_AB: Tensor, same_AB: Tensor, other_AB: Tensor) -> Tensor:
        """Return the loss over all pairs of each anchor, `(A,)`; how far a pair is off is no path for the gradient."""
        lacks_AB = (1 + self.margin - likeness_AB.detach()).relu() * self.scale
        exceeds_AB = (likeness_AB.detach() + self.margin).relu() * self.scale
        within_AB = (-lacks_AB * (likeness_AB - 1 + self.margin)).masked_fill(~same_AB, float("-inf"))
        between_AB = (exceeds_AB * (likeness_AB - self.margin)).masked_fill(~other_AB, float("-inf"))
        return functional.softplus(within_AB.logsumexp(1) + between_AB.logsumexp(1))

    @classmethod
    def example(cls) -> tuple[Contrast, Tensor, Tensor]:
        """Return the loss over four rows of two classes, and a row alone in its class."""
        vectors_BH = tensor([[1.0, 0.1], [0.8, 0.6], [-1.0, 0.2], [0.1, -1.0], [0.5, 0.5]])
        return cls(scale=4.0), vectors_BH, tensor([0, 0, 1, 1, 2])
