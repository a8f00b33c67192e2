"""Slot tags: `O` outside, `B-name` where a slot begins, `I-name` where it goes on.

W words, S tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

OUTSIDE = "O"


class Slot(NamedTuple):
    """A slot: its name, its first word, and the word after its last."""

    name: str
    first: int
    end: int


def fault_of_tags(tags: Sequence[str]) -> str | None:
    """Return what is wrong with the tags of a row, or None."""
    before = OUTSIDE
    for place, tag in enumerate(tags, 1):
        if tag != OUTSIDE and (tag[:2] not in ("B-", "I-") or not tag[2:]):
            return f"tag that is no BIO tag (got {tag!r} at word {place}, wanted O, B-name or I-name)"
        if tag[:2] == "I-" and before not in (tag, f"B-{tag[2:]}"):
            return f"tags break BIO (got {tag} after {before} at word {place}, wanted B-{tag[2:]} where a slot begins)"
        before = tag
    return None


def slots_of(tags: Sequence[str]) -> list[Slot]:
    """Return the slots of whole BIO tags, in their order."""
    found: list[Slot] = []
    for place, tag in enumerate(tags):
        if tag[:2] == "B-":
            found.append(Slot(tag[2:], place, place + 1))
        elif tag[:2] == "I-":
            found[-1] = found[-1]._replace(end=place + 1)
    return found


def tag_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the tags that occur, `O` first, the others by the alphabet, each B- before its I-."""
    found = {tag for tags in rows for tag in tags} - {OUTSIDE}
    return [OUTSIDE, *sorted(found, key=lambda tag: (tag[2:], tag[:2]))]


class Decoder:
    """Finds the tags with the highest summed score among those that keep to BIO.

    Args:
        tags: The S tags, `O` among them, a B- for every I-.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self.tags, place = list(tags), {tag: index for index, tag in enumerate(tags)}
        self._inside = np.array([index for index, tag in enumerate(tags) if tag[:2] == "I-"], np.int64)
        self._begin = np.array([place[f"B-{tags[index][2:]}"] for index in self._inside], np.int64)

    def __call__(self, scores_WS: np.ndarray) -> list[str]:
        """Return one tag for each word.

        Args:
            scores_WS: A score of each tag; logits will do.
        """
        if not len(scores_WS):
            return []
        best_S, came_from = scores_WS[0].astype(np.float64), []
        best_S[self._inside] = -np.inf
        for score_S in scores_WS[1:]:
            top = int(best_S.argmax())
            from_S, value_S = np.full(len(best_S), top), np.full(len(best_S), best_S[top])
            begun = best_S[self._begin] >= best_S[self._inside]
            from_S[self._inside] = np.where(begun, self._begin, self._inside)
            value_S[self._inside] = np.maximum(best_S[self._begin], best_S[self._inside])
            came_from.append(from_S)
            best_S = value_S + score_S
        path = [int(best_S.argmax())]
        for from_S in reversed(came_from):
            path.append(int(from_S[path[-1]]))
        return [self.tags[index] for index in reversed(path)]
