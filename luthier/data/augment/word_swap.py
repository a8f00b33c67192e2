"""Word swap: let neighbours change places."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from luthier.data.augment import augmentations
from luthier.data.augment.augmentation import Augmentation
from luthier.data.words import Text


@augmentations.add
class WordSwap(Augmentation):
    """Lets a word change places with its next word with a probability, from the first to the last; no word moves twice.

    Reference: as "random swap", of any two words, https://arxiv.org/abs/1901.11196
    """

    probability: float = Field(0.1, ge=0, lt=1, description="Probability that a word changes places with its next word.")

    def changed(self, text: Text, rng: np.random.Generator) -> Text:
        """Return the text with some neighbours swapped."""
        swaps_W = rng.random(text.num_words - 1) < self.probability
        swaps_W[: int(text.leans)] = False
        firsts = swaps_W.nonzero()[0].tolist()
        if not firsts:
            return text
        order_W, free = np.arange(text.num_words), 0
        for first in firsts:
            if first >= free:
                order_W[first], order_W[first + 1] = first + 1, first
                free = first + 2
        return text.take(order_W)

    @classmethod
    def example(cls) -> tuple[Augmentation, Text]:
        """Return swaps of half of the words, and a text of four."""
        return cls(probability=0.5), Text.of([[11], [12, 13], [14], [15, 16, 17]])
