"""The picture of a range test: the loss over the learning rate, which grows by the same factor from step to step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.explain.axes import level_lines, level_room
from luthier.explain.svg import Frame, card, path, picture, round_steps, words
from luthier.explain.wording import plain, rate

WIDTH, HEIGHT, MARGIN = 760.0, 300.0, 16.0
HIGHEST = 1.5  # times the first loss, at which the picture ends


def rate_file(found: Mapping[str, Any]) -> str:
    """Draw the curve of `find-lr.json` as a file of its own.

    Args:
        found: `points` with rate, loss and smooth; `rate`, `lowest` and `steepest`.
    """
    points = found["points"]
    losses = [point["smooth"] for point in points] or [0.0]
    high = max(HIGHEST * losses[0], min(losses) * 1.01)
    low = min([*losses, *(point["loss"] for point in points)])
    levels = round_steps(low, high, most=5)
    left = level_room(levels, plain)
    powers = [math.log10(point["rate"]) for point in points] or [0.0]
    frame = Frame(left, 30, WIDTH - 8, HEIGHT - 40, min(powers), max(powers), low, high)
    raw = path([(frame.x(math.log10(point["rate"])), frame.y(point["loss"])) for point in points], "line first faint")
    smooth = path([(frame.x(math.log10(point["rate"])), frame.y(point["smooth"])) for point in points], "line first")
    said = f"The loss is lowest at a rate of {rate(found['lowest'])}; {rate(found['rate'])} is proposed."
    drawn = (card(MARGIN), *_axes(frame, levels), raw, smooth, *_marks(frame, found))
    return picture(WIDTH, HEIGHT, "Range test of the learning rate", *drawn, description=said, margin=MARGIN) + "\n"


def _axes(frame: Frame, levels: list[float]) -> list[str]:
    parts = level_lines(frame, levels, plain)
    for power in range(math.ceil(frame.x_low - 1e-9), math.floor(frame.x_high + 1e-9) + 1):
        parts.append(path([(frame.x(power), frame.top), (frame.x(power), frame.bottom)], "grid"))
        parts.append(words(f"1e{power}", frame.x(power), frame.bottom + 16, class_="soft small", anchor="middle"))
    parts.append(words("learning rate →", frame.right, frame.bottom + 34, class_="soft small", anchor="end"))
    parts.append(words("loss, and its running mean", frame.left, 16, class_="soft small"))
    return parts


def _marks(frame: Frame, found: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, look, height in (("rate", "first", 10), ("lowest", "muted", 24), ("steepest", "muted", 38)):
        x = frame.x(math.log10(found[name]))
        late = x > (frame.left + frame.right) / 2
        word = f"{'proposed' if name == 'rate' else name} {rate(found[name])}"
        parts.append(path([(x, frame.top), (x, frame.bottom)], f"axis dashed {look}"))
        parts.append(words(word, x + (-5 if late else 5), frame.top + height, class_="small", anchor="end" if late else None))
    return parts
