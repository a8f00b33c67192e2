"""Where in a batch the words of its rows are read, and what is learnt at which tokens.

W windows of T tokens, M words that are read, S tokens that are learnt; a place is window * T + token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from luthier.data.prepared import Row
from luthier.tasks.tokens.encoding import NOWHERE

if TYPE_CHECKING:
    from torch import Tensor


class Places:
    """Finds the places of a batch.

    Args:
        length: Tokens T of each window, padding included.
        labels: Names of the tags.
        all_pieces: Whether every piece of a word is learnt; those after the first with I in the place of B.
    """

    def __init__(self, length: int, labels: Sequence[str], *, all_pieces: bool) -> None:
        number = {label: index for index, label in enumerate(labels)}
        after = [number.get(f"I-{label[2:]}", index) if label.startswith("B-") else index for index, label in enumerate(labels)]
        self._length, self._after_C, self._all_pieces = length, np.array(after, np.int64), all_pieces

    def of(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return `reads` (M,), the place of each word; `lengths` (B,), the words of each row; and of rows with targets `tags` (M,),
        the number of each word's tag, and `learnt` (S,) with `labels` (S,), the places that are learnt and what.
        """
        import torch

        reads, pieces, tags, first = [], [], [], 0
        for row in rows:
            record = json.loads(row.record or "{}")
            at = np.asarray(record["places"], np.int64)
            is_read = at != NOWHERE
            reads.append(self._places(at[is_read], row, first))
            pieces.append(np.asarray(record["pieces"], np.int64)[is_read])
            if row.target is not None:
                tags.append(np.asarray(row.target, np.int64)[is_read])
            first += len(row.windows)
        found = {"reads": np.concatenate(reads), "lengths": np.array([len(one) for one in reads], np.int64)}
        if tags:
            found["tags"] = np.concatenate(tags)
            found["learnt"], found["labels"] = self._learnt(found["reads"], found["tags"], np.concatenate(pieces))
        return {name: torch.from_numpy(array) for name, array in found.items()}

    def _places(self, at: np.ndarray, row: Row, first: int) -> np.ndarray:
        """Return places in the batch, from places in a row's tokens; `first` is the number of its first window."""
        starts = np.cumsum([0, *(len(window) for window in row.windows[:-1])])
        window = np.searchsorted(starts, at, side="right") - 1
        return (first + window) * self._length + at - starts[window]

    def _learnt(self, reads_M: np.ndarray, tags_M: np.ndarray, pieces_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known_M = tags_M >= 0
        reads_M, tags_M, pieces_M = reads_M[known_M], tags_M[known_M], pieces_M[known_M]
        if not self._all_pieces:
            return reads_M, tags_M
        word_S = np.repeat(np.arange(len(reads_M)), pieces_M)
        piece_S = np.arange(len(word_S)) - np.repeat(np.cumsum(pieces_M) - pieces_M, pieces_M)
        return reads_M[word_S] + piece_S, np.where(piece_S == 0, tags_M[word_S], self._after_C[tags_M[word_S]])
