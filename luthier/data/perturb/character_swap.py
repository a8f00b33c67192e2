"""Typing errors: two neighbouring letters of a word change places."""

from __future__ import annotations

import re

import numpy as np

WORD = re.compile(r"[^\W\d_]{4,}")


def swap_characters(text: str, rng: np.random.Generator, probability: float) -> str:
    """Return the text with two neighbours inside some of its words swapped; first and last letters stay.

    Args:
        text: Any text.
        rng: Decides which words and letters.
        probability: How often a word of four letters or more is changed, 0 to 1; one whose two letters are equal stays as it is.

    Reference: as "swap" noise, Belinkov and Bisk, https://arxiv.org/abs/1711.02173
    """

    def swapped(found: re.Match[str]) -> str:
        word = found[0]
        if rng.random() >= probability or not word.isalpha():  # a superior 2 is no digit, and no letter
            return word
        place = int(rng.integers(1, len(word) - 2))
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return WORD.sub(swapped, text)
