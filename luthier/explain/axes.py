"""Axes that pictures share: levels with their numbers, and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthier.explain.svg import Frame, path, round_steps, text_width, words
from luthier.explain.wording import count

Write = Callable[[float], str]
SMALL = 10.5  # size of the letters


def level_room(levels: Sequence[float], write: Write) -> float:
    """Return how much room the numbers of the upright axis take."""
    return max(text_width(write(level), SMALL) for level in levels) + 10


def level_lines(frame: Frame, levels: Sequence[float], write: Write) -> list[str]:
    """Draw a line at each level, with its number to the left."""
    parts = []
    for level in levels:
        parts.append(path([(frame.left, frame.y(level)), (frame.right, frame.y(level))], "grid"))
        parts.append(words(write(level), frame.left - 6, frame.y(level) + 4, class_="soft small", anchor="end"))
    return parts


def step_axis(frame: Frame, *, most: int = 5) -> list[str]:
    """Write round steps below the field, at most `most` + 1 of them."""
    parts = []
    for step in round_steps(frame.x_low, frame.x_high, most=most):
        near_end = frame.x(step) > frame.right - 16
        parts.append(words(count(step), frame.x(step), frame.bottom + 16, class_="soft small", anchor="end" if near_end else "middle"))
    return parts
