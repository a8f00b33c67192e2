"""Mixup: every row is mixed with another one of its batch, and learnt with the labels of both.

B rows, T tokens.

Reference: Zhang et al., https://arxiv.org/abs/1710.09412; of word embeddings, Guo et al., https://arxiv.org/abs/1905.08941
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.work import MIXED_SHARE, MIXED_WITH, Batch, Parts, Terms
from luthier.training.adversary import Words
from luthier.training.state import TrainingState
from luthier.training.step_rules.step_rule import Losses

STREAM = 7  # keeps these draws apart from others with the same seed


@dataclass(frozen=True)
class Mixing:
    """A task at work whose batches say with which row each is mixed, and how much of itself stays.

    One share is drawn for a batch, and one order of its rows. Both follow from the seed, the step and the ids of the rows, so
    that a resume and a second pass over the same batch find them again.

    Args:
        work: The task at work; it mixes the labels, and what its last layer reads where words are not mixed.
        alpha: The share is drawn from Beta(alpha, alpha).
        words: The word embedding, where that is what is mixed, or None.
        seed: Seed of the run.
        state: Knows the step.
    """

    work: Losses
    alpha: float
    words: Words | None
    seed: int
    state: TrainingState

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term: a change of order leaves it as it is."""
        return self.work.weights(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term of the mixed rows."""
        dice = np.random.default_rng([self.seed, self.state.step, STREAM, *batch.ids])
        share = float(dice.beta(self.alpha, self.alpha))
        device = next(iter(batch.inputs.values())).device
        with_B = torch.from_numpy(dice.permutation(len(batch.ids))).to(device)
        mixed = replace(batch, targets={**batch.targets, MIXED_WITH: with_B, MIXED_SHARE: torch.tensor(share, device=device)})
        if self.words is None:
            return self.work.losses(parts, mixed)
        with _mixed_words(self.words, with_B, share):
            return self.work.losses(parts, replace(mixed, inputs=_joint(batch.inputs, with_B)))


def _joint(inputs: dict[str, Tensor], with_B: Tensor) -> dict[str, Tensor]:
    """Return inputs whose mask has the tokens of both rows."""
    mask_BT = inputs["attention_mask"]
    return {**inputs, "attention_mask": torch.maximum(mask_BT, mask_BT[with_B])}


@contextmanager
def _mixed_words(words: Words, with_B: Tensor, share: float) -> Iterator[None]:
    """Within the context, what is looked up is mixed, token by token from the first on."""

    def mix(_: nn.Module, __: Any, looked_up_BTH: Tensor) -> Tensor:
        if len(looked_up_BTH) != len(with_B):
            return looked_up_BTH
        return share * looked_up_BTH + (1 - share) * looked_up_BTH[with_B]

    hook = words.module.register_forward_hook(mix)
    try:
        yield
    finally:
        hook.remove()
