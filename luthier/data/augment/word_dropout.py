"""Word dropout: leave words out."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from luthier.data.augment import augmentations
from luthier.data.augment.augmentation import Augmentation
from luthier.data.words import Text


@augmentations.add
class WordDropout(Augmentation):
    """Leaves each word out with a probability; one word of each text always stays.

    Reference: https://aclanthology.org/P15-1162, and as "random deletion" https://arxiv.org/abs/1901.11196
    """

    probability: float = Field(0.1, ge=0, lt=1, description="Probability that a word is left out.")

    def changed(self, text: Text, rng: np.random.Generator) -> Text:
        """Return the text without some of its words."""
        kept_W = (rng.random(text.num_words) >= self.probability).nonzero()[0]
        if len(kept_W) == text.num_words:
            return text
        return text.take(kept_W if len(kept_W) else rng.integers(text.num_words, size=1))

    @classmethod
    def example(cls) -> tuple[Augmentation, Text]:
        """Return dropout of half of the words, and a text of four."""
        return cls(probability=0.5), Text.of([[11], [12, 13], [14], [15, 16, 17]])
