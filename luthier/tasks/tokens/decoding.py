"""From the scores of words to tags, and from tags to answers.

M words of a batch, B rows, N words of the longest, C tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.tasks.tokens.encoding import NOWHERE
from luthier.tasks.tokens.schemes import OUTSIDE, units_of

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.linear_chain import Chain


@dataclass(frozen=True)
class Said:
    """What the model said of the words of one row.

    Args:
        record: What is kept of the row: its text, the offsets of its words, and their true tags where they are known.
        tags: The tag of each word.
        probabilities: How probable each of these tags is; 0 for a word that was not read.
        numbers: What the tags were decided by: of each word that was read the best score, and the score of the row.
    """

    record: Mapping[str, Any]
    tags: list[str]
    probabilities: np.ndarray
    numbers: np.ndarray

    def answers(self, scheme: str) -> list[dict[str, Any]]:
        """Return the spans (with plain tags, the words) with their offsets in the text; a score is the mean over the words."""
        text, starts, ends = (self.record[name] for name in ("text", "starts", "ends"))
        found = []
        for label, first, end in units_of(self.tags, scheme):
            span = (starts[first], ends[end - 1])
            score = round(float(self.probabilities[first:end].mean()), 4)
            found.append({"label": label, "text": text[slice(*span)], "start": span[0], "end": span[1], "score": score})
        return found

    def words(self, tags: Sequence[str], scheme: str) -> list[str]:
        """Return tags as a person reads them: `PER Ada Lovelace`."""
        text, starts, ends = (self.record[name] for name in ("text", "starts", "ends"))
        units = units_of(tags, scheme)
        if scheme == "plain":
            wrong = [place for place, (one, other) in enumerate(zip(self.tags, self.record["tags"], strict=True)) if one != other]
            units = [units[place] for place in wrong]
        return [f"{label} {text[starts[first] : ends[end - 1]]}" for label, first, end in units]


@dataclass(frozen=True)
class Decided:
    """What was decided for each row of a batch: tags, their probabilities, and the numbers behind them, of the words that were read."""

    tags: list[np.ndarray]
    probabilities: list[np.ndarray]
    numbers: list[np.ndarray]


def rows_of_words(values_MX: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return values of words, row after row, as rows padded with 0 `(B, N, ...)`, and where words are `(B, N)`.

    Args:
        values_MX: The values.
        lengths_B: How many words each row has.
    """
    import torch

    longest = max(1, int(lengths_B.max()))
    present_BN = torch.arange(longest, device=values_MX.device) < lengths_B.unsqueeze(1)
    padded = values_MX.new_zeros((*present_BN.shape, *values_MX.shape[1:]))
    padded[present_BN] = values_MX
    return padded, present_BN


def decide(scores_MC: Tensor, lengths_B: Tensor, chain: Chain | None, *, learnt: bool) -> Decided:
    """Return the best tags of each row that the chain allows.

    Args:
        scores_MC: Scores of the words, float32.
        lengths_B: How many words each row has.
        chain: Scores of tags after each other; None: each word is decided by itself.
        learnt: Whether the chain was learnt and has a say in how probable a tag is; else it only forbids.
    """
    if not learnt:
        scores_MC = scores_MC.log_softmax(-1)
    scores_BNC, present_BN = rows_of_words(scores_MC, lengths_B)
    best_BN, tags_BN = scores_BNC.max(2)
    row_B = (best_BN * present_BN).sum(1)
    if chain is not None:
        tags_BN, row_B = _along(scores_BNC, present_BN, chain, tags_BN, learnt=learnt)
    probable_BNC = _marginals(scores_BNC, present_BN, chain) if learnt and chain is not None else scores_BNC.exp()
    probable_BN = probable_BNC.gather(2, tags_BN.unsqueeze(2)).squeeze(2)
    lengths, tags, probable, best, of_row = (one.cpu().numpy() for one in (lengths_B, tags_BN, probable_BN, best_BN, row_B))
    return Decided(
        [row[:length] for row, length in zip(tags, lengths, strict=True)],
        [row[:length] for row, length in zip(probable, lengths, strict=True)],
        [np.append(row[:length], total if length else 0.0) for row, length, total in zip(best, lengths, of_row, strict=True)],
    )


def _along(scores_BNC: Tensor, present_BN: Tensor, chain: Chain, tags_BN: Tensor, *, learnt: bool) -> tuple[Tensor, Tensor]:
    """Return the best tags along the chain; of one that only forbids, rows whose best tags are allowed stay as they are."""
    from luthier.models.linear_chain import FORBIDDEN, best_paths, path_score

    row_B = path_score(scores_BNC, tags_BN, present_BN, chain)
    if learnt:
        return best_paths(scores_BNC, present_BN, chain)
    broken_B = row_B < FORBIDDEN / 2
    if bool(broken_B.any()):
        tags_BN = tags_BN.clone()
        tags_BN[broken_B], row_B[broken_B] = best_paths(scores_BNC[broken_B], present_BN[broken_B], chain)
    return tags_BN, row_B


def _marginals(scores_BNC: Tensor, present_BN: Tensor, chain: Chain) -> Tensor:
    from luthier.models.linear_chain import marginals

    return marginals(scores_BNC, present_BN, chain)


def said_of(record: Mapping[str, Any], labels: Sequence[str], tags: np.ndarray, probable: np.ndarray, numbers: np.ndarray) -> Said:
    """Return what was said of a row; words that were not read are outside of everything, with plain tags of the first."""
    read = [place for place, at in enumerate(record["places"]) if at != NOWHERE]
    unread = OUTSIDE if OUTSIDE in labels else labels[0]
    every, probabilities = [unread] * len(record["places"]), np.zeros(len(record["places"]))
    for place, tag, probability in zip(read, tags, probable, strict=True):
        every[place], probabilities[place] = labels[int(tag)], probability
    return Said(record, every, probabilities, numbers)
