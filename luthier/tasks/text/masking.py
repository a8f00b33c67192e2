"""Which tokens of a row are hidden, and what stands in their place.

T tokens of a row, M of them masked, W words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEVER, GOES_ON, BEGINS = -1, 0, 1
"""What a mark says of a token: it is never masked, it goes on with the word before it, it begins a word."""
FIXED = 0x3A5C  # keeps the masks of held-out rows apart from other draws with the same id


@dataclass(frozen=True)
class Masked:
    """What a row hides.

    Args:
        places_M: Where, ascending.
        tokens_M: The tokens that stood there.
    """

    places_M: np.ndarray
    tokens_M: np.ndarray


@dataclass(frozen=True)
class Masking:
    """How rows are masked.

    Args:
        share: Share of the tokens that are hidden, at least one in each row.
        mask: Share of those that become the mask token.
        random: Share of those that become a random token; the rest stay as they are.
        whole_words: Whether all tokens of a word are hidden together.
        mask_id: The mask token.
        words: Tokens that random ones are drawn from.

    Reference: 15 %, of which 80 % masked, 10 % random, 10 % kept, https://arxiv.org/abs/1810.04805; whole words for Chinese,
        https://arxiv.org/abs/1906.08101
    """

    share: float
    mask: float
    random: float
    whole_words: bool
    mask_id: int
    words: np.ndarray

    def applied(self, tokens_T: np.ndarray, marks_T: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Masked]:
        """Return a row as the model reads it, and what it hides.

        Args:
            tokens_T: Token ids.
            marks_T: What `NEVER`, `GOES_ON` and `BEGINS` say of them; at least one may be masked.
            rng: Where everything random is drawn from.
        """
        places_M = self.places(marks_T, rng)
        draw_M = rng.random(len(places_M))
        changed_T = tokens_T.copy()
        changed_T[places_M[draw_M < self.mask]] = self.mask_id
        swapped = places_M[(draw_M >= self.mask) & (draw_M < self.mask + self.random)]
        changed_T[swapped] = self.words[rng.integers(len(self.words), size=len(swapped))]
        return changed_T, Masked(places_M, tokens_T[places_M])

    def fixed(self, tokens_T: np.ndarray, marks_T: np.ndarray, id_: int) -> tuple[np.ndarray, Masked]:
        """Return a held-out row with the mask that its id has in every run, and what it hides."""
        return self.applied(tokens_T, marks_T, np.random.default_rng((FIXED, id_)))

    def places(self, marks_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return which tokens are hidden, ascending: as many as the share says, words that would make them more left out."""
        free = (marks_T != NEVER).nonzero()[0]
        wanted = max(1, round(self.share * len(free)))
        if not self.whole_words:
            return np.sort(rng.choice(free, wanted, replace=False))
        words, taken, hidden = words_of(marks_T), list[np.ndarray](), 0
        for number in rng.permutation(len(words)):
            if hidden and hidden + len(words[number]) > wanted:
                continue
            taken.append(words[number])
            hidden += len(words[number])
            if hidden >= wanted:
                break
        return np.sort(np.concatenate(taken))


def words_of(marks_T: np.ndarray) -> list[np.ndarray]:
    """Return the places of each word of a row, special tokens left out."""
    free = (marks_T != NEVER).nonzero()[0]
    begins = (marks_T[free] == BEGINS) | (np.diff(free, prepend=-2) > 1)
    return np.split(free, begins.nonzero()[0][1:]) if len(free) else []
