"""The picture of which layers are trained at which steps: a row for each layer, the head on top, filled where it is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from luthier.explain.axes import SMALL
from luthier.explain.svg import Frame, tag, text_width, words

HIGHEST_ROW, MOST_HEIGHT = 14.0, 200.0
LETTERS = 12.0  # height that a name takes
NAME_ROOM = text_width("embeddings", SMALL) + 10


def panel_height(layers: Mapping[str, Any]) -> float:
    """Return how high the rows of all layers are."""
    return (layers["blocks"] + 2) * _row(layers)


def layer_panel(layers: Mapping[str, Any], frame: Frame) -> list[str]:
    """Draw the rows into a field whose width means steps.

    Args:
        layers: `blocks`, and `turns` with the `first` and `last` step of each and the depths that are `trained` beside the head.
        frame: The field, as high as `panel_height`.
    """
    row, top = _row(layers), layers["blocks"] + 1
    parts = [words("trained layers", frame.left, frame.top - 6, class_="soft small")]
    every = math.ceil(LETTERS / row)
    for depth in range(top + 1):
        y = frame.bottom - (depth + 1) * row
        parts.append(tag("rect", x=frame.left, y=y, width=frame.right - frame.left, height=row - 1, class_="cell"))
        for first, last in _spans(layers, depth):
            width = max(frame.x(last + 1) - frame.x(first), 1.0)
            parts.append(tag("rect", x=frame.x(first), y=y, width=width, height=row - 1, class_="first-fill", opacity=0.8))
        if depth in (0, top) or (depth % every == 0 and every <= depth <= top - every):
            name = {0: "embeddings", top: "head"}.get(depth, f"block {depth}")
            parts.append(words(name, frame.left - 6, y + row / 2 + 4, class_="soft small", anchor="end"))
    return parts


def _row(layers: Mapping[str, Any]) -> float:
    return min(HIGHEST_ROW, MOST_HEIGHT / (layers["blocks"] + 2))


def _spans(layers: Mapping[str, Any], depth: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last step of each stretch in which a layer is trained."""
    begun = None
    for turn in layers["turns"]:
        trained = depth in turn["trained"] or depth > layers["blocks"]
        if begun is not None and not trained:
            yield begun, turn["first"] - 1
            begun = None
        elif begun is None and trained:
            begun = turn["first"]
    if begun is not None:
        yield begun, layers["turns"][-1]["last"]
