"""NEFTune: noise on the word embeddings of every text, while training.

Reference: Jain et al., https://arxiv.org/abs/2310.05914
"""

from __future__ import annotations

from dataclasses import dataclass

from luthier.core.work import Batch, Parts, Terms
from luthier.training.adversary import Texts, Words
from luthier.training.state import TrainingState
from luthier.training.step_rules.step_rule import Losses


@dataclass(frozen=True)
class Noisy:
    """A task at work whose losses are those of noisy texts.

    The noise of a text follows from the seed, the step and its id: micro-batches, processes and a resume do not matter.

    Args:
        work: The task at work.
        words: The word embedding.
        alpha: Largest number of the noise, times the root of how many numbers a text has.
        seed: Seed of the run.
        state: Knows the step.
    """

    work: Losses
    words: Words
    alpha: float
    seed: int
    state: TrainingState

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term."""
        return self.work.weights(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term, with noise on the embeddings."""
        noise_BTH = self.alpha * Texts.of(batch).noise((self.seed, self.state.step), self.words.width)
        with self.words.moved(noise_BTH):
            return self.work.losses(parts, batch)
