"""PGD: like FGM, but the move is found in several steps that stay within a ball."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from pydantic import Field

from luthier.core.work import Batch, Parts
from luthier.training.adversary import Ascent, Texts, Words
from luthier.training.shares import Shares
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.world import ALONE, World


@step_rules.add
class Pgd(StepRule):
    """The gradient of the loss plus that of the loss after `steps` moves up the loss, never further than `epsilon`.

    The loss that is told is that of the texts as they are. `steps` + 1 passes for each step.

    Reference: Madry et al., https://arxiv.org/abs/1706.06083
    """

    moves_words: ClassVar[bool] = True
    needs_whole_weights: ClassVar[bool] = True
    steps: int = Field(3, ge=1, description="Moves up the loss.")
    step_size: float = Field(0.1, gt=0, description="Length of one move, over all tokens of a text together.")
    epsilon: float = Field(0.2, gt=0, description="Longest way from where a text was.")
    weight: float = Field(1.0, gt=0, description="Weight of the loss of moved texts; the texts as they are weigh 1.")

    @property
    def passes(self) -> float:
        """That of a text as it is, and one after each move."""
        return self.steps + 1.0

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add both gradients of each micro-batch; the passes in between give the weights none."""
        shares, words, ascent = Shares(work, parts, window, cast, world), Words.of(parts), Ascent(self.step_size, self.epsilon)
        for number, batch in enumerate(window, start=1):
            texts, still_BTH = Texts.of(batch), words.still(batch)
            with world.syncing(parts, last=False):
                with words.moved(still_BTH):
                    shares.forward(batch).backward()
                assert still_BTH.grad is not None
                moved_BTH = ascent.climbed(still_BTH, still_BTH.grad, texts)
                for _ in range(self.steps - 1):
                    moved_BTH.requires_grad_()
                    with words.moved(moved_BTH):
                        total = shares.forward(batch, counted=0.0)
                    moved_BTH = ascent.climbed(moved_BTH, torch.autograd.grad(total, moved_BTH)[0], texts)
            with world.syncing(parts, last=number == len(window)), words.moved(moved_BTH):
                (self.weight * shares.forward(batch, counted=0.0)).backward()
        return shares.means()
