"""FGM: every text is learnt twice, as it is and moved up the loss by a fixed length."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

from pydantic import Field

from luthier.core.work import Batch, Parts
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.pgd import Pgd
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.world import ALONE, World


@step_rules.add
class Fgm(StepRule):
    """The gradient of the loss plus that of the loss with the word embeddings moved by `epsilon` along their gradient.

    The loss that is told is that of the texts as they are. Two passes for each step.

    Reference: Miyato et al., https://arxiv.org/abs/1605.07725
    """

    moves_words: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = True
    epsilon: float = Field(0.2, gt=0, description="Length of the move, over all tokens of a text together.")
    weight: float = Field(1.0, gt=0, description="Weight of the loss of moved texts; the texts as they are weigh 1.")

    @property
    def passes(self) -> float:
        """That of a text as it is, and of the moved one."""
        return 2.0

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add both gradients of each micro-batch: PGD with a single move."""
        whole = Pgd(steps=1, step_size=self.epsilon, epsilon=self.epsilon, weight=self.weight)
        return whole.gradient(work, parts, window, cast, world)
