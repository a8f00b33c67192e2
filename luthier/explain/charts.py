"""The pictures of a report: lines, intervals, calibration, lengths. Each is one function from numbers to SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from luthier.explain.axes import Write, level_lines, level_room, step_axis
from luthier.explain.curves import Points, thin
from luthier.explain.story import Plain, Score
from luthier.explain.svg import Frame, escape, fit, path, picture, round_steps, tag, text_width, words
from luthier.explain.wording import count, percent, plain

NARROW, WIDE = 360.0, 760.0


class Line(NamedTuple):
    """A line of a chart: its name in the legend (none: not named), its points, and its classes."""

    name: str
    points: Points
    look: str


class Mark(NamedTuple):
    """An upright mark at a step, with a word beside it."""

    step: float
    word: str


def line_chart(title: str, lines: Sequence[Line], *, width: float = NARROW, marks: Sequence[Mark] = (), write: Write = plain) -> str:
    """Draw values over steps.

    Args:
        title: What is shown, for those who do not see it.
        lines: The lines, drawn in order.
        width: Width of the picture in its own units.
        marks: Steps to point out.
        write: How the numbers of the upright axis are written.
    """
    height = 190.0 if width < WIDE else 260.0
    steps = [step for line in lines for step, _ in line.points]
    low, high = _value_range([value for line in lines for _, value in line.points])
    levels = round_steps(low, high, most=4)
    margin = level_room(levels, write)
    frame = Frame(margin, 26, width - 8, height - 24, min(steps), max(steps), low, high)
    drawn = [path([(frame.x(step), frame.y(value)) for step, value in thin(line.points)], f"line {line.look}") for line in lines]
    axes = [*level_lines(frame, levels, write), *step_axis(frame)]
    return picture(width, height, title, *axes, *drawn, *_marks(frame, marks), _legend(lines))


class Whisker(NamedTuple):
    """A score with its interval, as one row of a chart: its name, its shares of 1, and the class of its colour."""

    name: str
    score: Score
    look: str


def interval_chart(title: str, rows: Sequence[Whisker], *, width: float = NARROW) -> str:
    """Draw scores as dots with their intervals, one below the other.

    Args:
        title: What is shown, for those who do not see it.
        rows: The scores from top to bottom.
        width: Width of the picture in its own units.
    """
    low = min(row.score.low for row in rows)
    low = max(0.0, (low * 10 - 0.5) // 1 / 10)
    names = min(max(text_width(row.name) for row in rows) + 10, width * 0.4)
    frame = Frame(names, 4, width - 52, 4 + 30 * len(rows), low, 1.0)
    parts = []
    for level in round_steps(low, 1.0, most=4):
        parts.append(path([(frame.x(level), frame.top), (frame.x(level), frame.bottom)], "grid"))
        parts.append(words(percent(level, 0), frame.x(level), frame.bottom + 15, class_="soft small", anchor="middle"))
    parts += [_whisker(frame, frame.top + 30 * index + 15, row) for index, row in enumerate(rows)]
    return picture(width, frame.bottom + 22, title, *parts)


def _whisker(frame: Frame, y: float, row: Whisker) -> str:
    name, score, look = row
    value = frame.x(score.value)
    said = f"{name}: {percent(score.value)}, between {percent(score.low)} and {percent(score.high)}"
    return tag(
        "g",
        tag("title", escape(said)),
        words(fit(name, frame.left - 10), 0, y + 4),
        path([(frame.x(score.low), y), (frame.x(score.high), y)], f"line {look}"),
        *(path([(frame.x(edge), y - 4), (frame.x(edge), y + 4)], f"line {look}") for edge in (score.low, score.high)),
        tag("circle", cx=value, cy=y, r=5, class_=f"{look}-fill"),
        words(percent(score.value), frame.right + 52, y + 4, class_="bold", anchor="end"),
    )


def reliability_chart(bins: Sequence[Plain], *, width: float = NARROW) -> str:
    """Draw how often the model is right against how sure it said it was; on the diagonal the two agree.

    Args:
        bins: Mappings with `confidence`, `accuracy` (shares of 1) and `count`.
        width: Width of the picture in its own units.
    """
    frame = Frame(44, 10, width - 12, 290, 0.0, 1.0)
    parts = [*level_lines(frame, [0, 0.25, 0.5, 0.75, 1], _whole_percent)]
    for level in (0, 0.25, 0.5, 0.75, 1):
        parts.append(words(_whole_percent(level), frame.x(level), 306, class_="soft small", anchor="middle"))
    parts.append(path([(frame.x(0), frame.y(0)), (frame.x(1), frame.y(1))], "axis dashed"))
    filled = [item for item in bins if item.get("count") and item.get("confidence") is not None and item.get("accuracy") is not None]
    most = max((item["count"] for item in filled), default=1)
    for item in filled:
        x, y = frame.x(item["confidence"]), frame.y(item["accuracy"])
        said = f"said {percent(item['confidence'])}, right {percent(item['accuracy'])}: {count(item['count'], 'row')}"
        dot = tag("circle", tag("title", said), cx=x, cy=y, r=3 + 9 * (item["count"] / most) ** 0.5, class_="first-fill", opacity=0.85)
        parts += [path([(x, frame.y(item["confidence"])), (x, y)], "wrong-line"), dot]
    parts.append(words("how sure the model said it was →", frame.right, 324, class_="soft small", anchor="end"))
    parts.append(words("↑ how often it was right", frame.left + 6, 22, class_="soft small"))
    return picture(width, 332, "Calibration: how often the model is right against how sure it said it was", *parts)


def length_chart(edges: Sequence[float], counts: Sequence[int], *, limit: int | None = None, width: float = NARROW) -> str:
    """Draw how many texts have how many tokens.

    Args:
        edges: Borders of the bars in tokens, one more than `counts`.
        counts: Texts within each bar.
        limit: Where longer texts are cut.
        width: Width of the picture in its own units.
    """
    levels = round_steps(0, max(counts), most=3)
    margin = text_width(count(levels[-1]), 10.5) + 10
    frame = Frame(margin, 22, width - 8, 150, edges[0], edges[-1], 0, max(counts))
    parts = [*level_lines(frame, levels, count)]
    for low, high, number in zip(edges, edges[1:], counts, strict=False):
        said = f"{plain(low)} to {plain(high)} tokens: {count(number, 'text')}"
        place = {"x": frame.x(low) + 0.5, "width": max(frame.x(high) - frame.x(low) - 1, 0.8)}
        bar = {"y": frame.y(number), "height": frame.bottom - frame.y(number), "class_": "first-fill"}
        parts.append(tag("rect", tag("title", said), **place, **bar) if number else "")
    for level in round_steps(edges[0], edges[-1]):
        parts.append(words(count(level), frame.x(level), 165, class_="soft small", anchor="middle"))
    inside = limit is not None and edges[0] < limit < edges[-1]
    cut = _marks(frame, [Mark(limit, f"cut at {limit}")]) if inside and limit else []
    parts.append(words("tokens", frame.right, 181, class_="soft small", anchor="end"))
    return picture(width, 184, "Lengths of the texts in tokens", *parts, *cut)


def class_counts_chart(classes: Mapping[str, int], *, width: float = NARROW) -> str:
    """Draw how many rows each class has, the largest first."""
    rows = sorted(classes.items(), key=lambda item: -item[1])
    most = max([number for _, number in rows] + [1])
    names = min(max(text_width(name) for name, _ in rows) + 10, width * 0.45)
    frame = Frame(names, 0, width - 48, 22 * len(rows), 0, most)
    parts = []
    for index, (name, number) in enumerate(rows):
        y = 22 * index
        parts.append(words(fit(name, names - 8), 0, y + 15))
        bar = max(frame.x(number) - names, 1)
        parts.append(tag("rect", x=names, y=y + 5, width=bar, height=12, rx=2, class_="first-fill", opacity=0.8))
        parts.append(words(count(number), frame.x(number) + 5, y + 15, class_="soft small"))
    return picture(width, 22 * len(rows) + 2, "Training rows of each class", *parts)


def _value_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    low = 0.0 if 0 <= low < 0.5 * high or low == high > 0 else low
    return low, high if high > low else low + 1.0


def _marks(frame: Frame, marks: Sequence[Mark]) -> list[str]:
    parts = []
    for mark in marks:
        x = frame.x(mark.step)
        late = x > (frame.left + frame.right) / 2
        parts.append(path([(x, frame.top), (x, frame.bottom)], "axis dashed"))
        parts.append(words(mark.word, x + (-5 if late else 5), frame.top + 10, class_="soft small", anchor="end" if late else None))
    return parts


def _legend(lines: Sequence[Line]) -> str:
    parts, x = [], 2.0
    for line in lines:
        if line.name:
            parts.append(path([(x, 9), (x + 16, 9)], f"line {line.look}"))
            parts.append(words(line.name, x + 21, 13))
            x += 21 + text_width(line.name) + 14
    return "".join(parts)


def _whole_percent(share: float) -> str:
    return percent(share, 0)
