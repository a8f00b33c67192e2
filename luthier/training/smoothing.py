"""SMART: the answer to a text is to stay the same when its word embeddings are moved to where the answer changes most.

Reference: the smoothness-inducing regulariser of Jiang et al., https://arxiv.org/abs/1911.03437, without its proximal point method
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from luthier.core.work import Batch, Parts, Term, Terms, Weighted
from luthier.training.adversary import Ascent, Texts, Words
from luthier.training.memory import dropout_state, restore_dropout
from luthier.training.state import TrainingState

STREAM = 13  # keeps these draws apart from others with the same seed


@runtime_checkable
class Answering(Protocol):
    """A task at work that tells its answers apart."""

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term from the labels alone, that of `smart` among them."""

    def losses_and_scores(self, parts: Parts, batch: Batch) -> tuple[Terms, Tensor]:
        """Return each loss term, and the scores of its first pass."""

    def scores(self, parts: Parts, batch: Batch) -> Tensor:
        """Return the scores of a pass."""

    def apart(self, one: Tensor, other: Tensor, batch: Batch) -> Weighted:
        """Return how far two scores of the same rows are apart."""


@dataclass(frozen=True)
class Smooth:
    """A task at work whose losses have one more term: how far its answers go when texts are moved.

    All passes of a batch have the same dropout. A text starts moved at random, for where it stands nothing is steep; the starts follow
    from the seed, the step and the ids of the rows.

    Args:
        work: The task at work.
        words: The word embedding.
        ascent: How a text is moved.
        steps: Moves of a text.
        weight: Coefficient of the term.
        seed: Seed of the run.
        state: Knows the step.
    """

    work: Answering
    words: Words
    ascent: Ascent
    steps: int
    weight: float
    seed: int
    state: TrainingState

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term."""
        return self.work.weights(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term, `smart` among them."""
        before = dropout_state()
        terms, scores = self.work.losses_and_scores(parts, batch)
        after, texts = dropout_state(), Texts.of(batch)

        def apart(from_scores: Tensor, moved_BTH: Tensor) -> Weighted:
            restore_dropout(*before)
            with self.words.moved(moved_BTH):
                return self.work.apart(from_scores, self.work.scores(parts, batch), batch)

        moved_BTH = self.ascent.epsilon * texts.noise((self.seed, self.state.step, STREAM), self.words.width)
        for _ in range(self.steps):
            moved_BTH.requires_grad_()
            (steepest_BTH,) = torch.autograd.grad(apart(scores.detach(), moved_BTH).sum, moved_BTH)
            moved_BTH = self.ascent.climbed(moved_BTH, steepest_BTH, texts)
        found = apart(scores, moved_BTH)
        restore_dropout(*after)
        return {**terms, "smart": Term(found.sum, found.weight, self.weight)}
