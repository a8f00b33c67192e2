"""From the scores of tokens to the best spans of a context, over all of its windows.

T tokens of a window, C of them of the context, L tokens of the longest span, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """What the model said of one window.

    Args:
        start_T: Score of each token to be the first of the answer.
        end_T: Score of each token to be the last.
        begin_T: Where each token begins in the context; -1 for tokens of no context.
        stop_T: Where it ends.
        null: The token that stands for "not in this window".
    """

    start_T: np.ndarray
    end_T: np.ndarray
    begin_T: np.ndarray
    stop_T: np.ndarray
    null: int


class Spans(NamedTuple):
    """The best spans of a context, best first.

    Args:
        places_S2: Where each begins and ends, in characters.
        score_S: The sum of the scores of its first and its last token.
        null: Score of no answer: the lowest among the windows.
    """

    places_S2: np.ndarray
    score_S: np.ndarray
    null: float

    @property
    def best(self) -> float:
        """Score of the best span; that of no answer where the context has no tokens."""
        return float(self.score_S[0]) if len(self.score_S) else self.null

    def chosen(self, *, may_be_none: bool, threshold: float) -> tuple[tuple[int, int] | None, float]:
        """Return the place of the answer, or None, and its probability among the best spans (and none, where that may be).

        Args:
            may_be_none: Whether there may be no answer.
            threshold: No answer is given where its score is higher than the best span's by more than this.
        """
        scores = np.append(self.score_S, self.null) if may_be_none or not len(self.score_S) else self.score_S
        shares = np.exp(scores - scores.max())
        none = not len(self.score_S) or (may_be_none and self.null - self.best > threshold)
        place = None if none else (int(self.places_S2[0, 0]), int(self.places_S2[0, 1]))
        return place, float(shares[-1 if none else 0] / shares.sum())


def best_spans(windows: Sequence[Window], *, most: int, longest: int) -> Spans:
    """Return the best spans over the windows of a context; one that two windows hold has the higher of its scores.

    Args:
        windows: The windows of the context.
        most: Most spans.
        longest: Most tokens of a span.
    """
    found: dict[tuple[int, int], float] = {}
    for window in windows:
        for place, score in _of_window(window, most, longest):
            found[place] = max(score, found.get(place, -np.inf))
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
    null = min(float(window.start_T[window.null]) + float(window.end_T[window.null]) for window in windows)
    places_S2 = np.array([place for place, _ in best], np.int64).reshape(len(best), 2)
    return Spans(places_S2, np.array([score for _, score in best], np.float64), null)


def _of_window(window: Window, most: int, longest: int) -> list[tuple[tuple[int, int], float]]:
    """Return the best spans of one window, in no order."""
    inside_C = np.flatnonzero(window.begin_T >= 0)
    num = len(inside_C)
    longest = min(longest, num)
    if not num:
        return []
    beyond = np.full(longest - 1, -np.inf)
    ends = np.concatenate([window.end_T[inside_C].astype(np.float64), beyond])
    score_CL = window.start_T[inside_C].astype(np.float64)[:, None] + np.lib.stride_tricks.sliding_window_view(ends, longest)
    score = score_CL.ravel()
    kept = np.argpartition(-score, most)[:most] if len(score) > most else np.arange(len(score))
    kept = kept[np.isfinite(score[kept])]
    first, last = inside_C[kept // longest], inside_C[kept // longest + kept % longest]
    places = zip(window.begin_T[first].tolist(), window.stop_T[last].tolist(), strict=True)
    return list(zip(places, score[kept].tolist(), strict=True))
