"""What every augmentation is: a text of the training rows in other words, another time each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.config import Registered
from luthier.data.words import Text, WordMarks

if TYPE_CHECKING:
    from luthier.data.prepared import Row

Stretch = tuple[int, int, np.ndarray]  # begin, end, and what comes in its place


class Augmentation(Registered, ABC):
    """Changes the words of one text.

    A new augmentation says one thing: the text as training sees it this time (`changed`). It is handed a text alone, never a special
    token or the other text of a pair, so it can neither touch nor mix them. The text that it returns has at least one word, and no
    more tokens than it was handed.
    """

    @abstractmethod
    def changed(self, text: Text, rng: np.random.Generator) -> Text:
        """Return the text as training sees it this time; every draw comes from `rng`, and `text` is not written to."""

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Augmentation, Text]:
        """Return an augmentation and a text that it often changes, for the contract tests."""


@dataclass(frozen=True)
class Augmenter:
    """Augmentations one after the other, over every text of a row.

    Args:
        augmentations: What changes each text, in this order.
        marks: Where words begin.
    """

    augmentations: tuple[Augmentation, ...]
    marks: WordMarks

    def __call__(self, row: Row, rng: np.random.Generator) -> Row:
        """Return the row with its texts changed, window by window; type ids keep pace, everything else stays."""
        types: Sequence[np.ndarray | None] = [None] * len(row.windows) if row.type_ids is None else row.type_ids
        changed = [self._changed(tokens_T, types_T, rng) for tokens_T, types_T in zip(row.windows, types, strict=True)]
        type_ids = None if row.type_ids is None else [types_T for _, types_T in changed if types_T is not None]
        return replace(row, windows=[tokens_T for tokens_T, _ in changed], type_ids=type_ids)

    def _changed(self, tokens_T: np.ndarray, types_T: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        tokens: list[Stretch] = []
        types: list[Stretch] = []
        for begin, text in self.marks.texts(tokens_T, types_T):
            changed = text
            for augmentation in self.augmentations:
                changed = augmentation.changed(changed, rng)
            if changed is not text:
                end = begin + len(text.tokens_T)
                tokens.append((begin, end, changed.tokens_T))
                if types_T is not None:
                    types.append((begin, end, types_T[begin].repeat(len(changed.tokens_T))))
        return _spliced(tokens_T, tokens), None if types_T is None else _spliced(types_T, types)


def _spliced(old_T: np.ndarray, stretches: list[Stretch]) -> np.ndarray:
    """Return an array with others in the place of some of its stretches."""
    if not stretches:
        return old_T
    pieces, done = [], 0
    for begin, end, new_T in stretches:
        pieces += [old_T[done:begin], new_T]
        done = end
    return np.concatenate([*pieces, old_T[done:]])
