"""FreeLB: texts start moved at random and are moved up the loss; every pass on the way gives the weights a gradient."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from pydantic import Field

from luthier.core.work import Batch, Parts
from luthier.training.adversary import DRAWS, Ascent, Texts, Words
from luthier.training.memory import dropout_state, restore_dropout
from luthier.training.shares import Shares
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.world import ALONE, World


@step_rules.add
class FreeLb(StepRule):
    """The mean gradient of `steps` passes, each with the word embeddings further up the loss, all with the same dropout.

    The loss that is told is the mean of these passes, so it is that of moved texts. `steps` passes for each step.

    Reference: Zhu et al., https://arxiv.org/abs/1909.11764
    """

    moves_words: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = True
    steps: int = Field(3, ge=1, description="Passes, with a move up the loss after each.")
    step_size: float = Field(0.1, gt=0, description="Length of one move, over all tokens of a text together.")
    epsilon: float = Field(0.2, gt=0, description="Longest way from where a text was; the random start is within it.")

    @property
    def passes(self) -> float:
        """One for each move."""
        return float(self.steps)

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add the mean gradient of each micro-batch; the random starts follow from one draw for the step and the ids of its rows."""
        shares, words, ascent = Shares(work, parts, window, cast, world), Words.of(parts), Ascent(self.step_size, self.epsilon)
        drawn = float(torch.randint(DRAWS, ()))
        key = int(world.sum({"key": drawn if world.rank == 0 else 0.0})["key"])
        for number, batch in enumerate(window, start=1):
            texts, dropout = Texts.of(batch), dropout_state()
            moved_BTH = self.epsilon * texts.noise((key,), words.width)
            for ascended in range(self.steps):
                restore_dropout(*dropout)
                moved_BTH.requires_grad_()
                last = number == len(window) and ascended == self.steps - 1
                with world.syncing(parts, last=last), words.moved(moved_BTH):
                    (shares.forward(batch, counted=1 / self.steps) / self.steps).backward()
                assert moved_BTH.grad is not None
                moved_BTH = ascent.climbed(moved_BTH, moved_BTH.grad, texts)
        return shares.means()
