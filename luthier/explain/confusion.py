"""The confusion matrix: which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.explain.svg import card, escape, fit, path, picture, tag, text_width, words
from luthier.explain.wording import count, percent

MOST_CLASSES = 30
FOCUS = 18
MARGIN = 14.0
OTHERS = "other classes"
Counts = Sequence[Sequence[int]]


class Confusion(NamedTuple):
    """Rows are the truth, columns the predictions; the columns may end with all other classes together."""

    truths: list[str]
    predictions: list[str]
    counts: list[list[int]]
    note: str = ""


class Pair(NamedTuple):
    """Rows of one class that were taken for another."""

    truth: str
    predicted: str
    number: int
    share: float


def confused_pairs(labels: Sequence[str], counts: Counts, *, most: int = 10) -> list[Pair]:
    """Return the most frequent mistakes, the largest first."""
    pairs = [
        Pair(labels[truth], labels[predicted], number, number / max(sum(row), 1))
        for truth, row in enumerate(counts)
        for predicted, number in enumerate(row)
        if number and truth != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair.number, -pair.share))[:most]


def focus(labels: Sequence[str], counts: Counts, *, most: int = MOST_CLASSES) -> Confusion:
    """Return the whole matrix, or its most confused classes where it has more than `most`."""
    names = [str(label) for label in labels]
    if len(names) <= most:
        return Confusion(names, names, [list(row) for row in counts])
    chosen = _most_confused(counts)
    shown = [[counts[truth][predicted] for predicted in chosen] for truth in chosen]
    rest = [sum(counts[truth]) - sum(row) for truth, row in zip(chosen, shown, strict=True)]
    note = f"The {len(chosen)} most confused of {len(names)} classes; the last column holds the predictions of all the others."
    kept = [names[index] for index in chosen]
    return Confusion(kept, [*kept, OTHERS], [[*row, more] for row, more in zip(shown, rest, strict=True)], note)


def _most_confused(counts: Counts) -> list[int]:
    """Return the classes of the most frequent mistakes in both directions, those that are confused side by side."""
    size = range(len(counts))
    mistakes = sorted(((counts[a][b] + counts[b][a], a, b) for a in size for b in size if a < b), key=lambda item: (-item[0], item[1:]))
    chosen: list[int] = []
    for _, first, second in mistakes:
        chosen += [index for index in (first, second) if index not in chosen]
        if len(chosen) >= FOCUS:
            break
    return chosen[:FOCUS]


def matrix_width(confusion: Confusion) -> float:
    """Return the width at which the picture is drawn best, in pixels."""
    return _Layout.of(confusion).width


def confusion_matrix(confusion: Confusion) -> str:
    """Draw a confusion matrix: the truth in rows, the predictions in columns, the stronger the larger the share of its row."""
    return _draw(confusion, _Layout.of(confusion))


def confusion_file(confusion: Confusion) -> str:
    """Draw the same picture as a file of its own, with its colours and a background."""
    return _draw(confusion, _Layout.of(confusion), card(MARGIN), margin=MARGIN) + "\n"


class _Layout(NamedTuple):
    cell: float
    left: float
    top: float
    width: float
    height: float

    @classmethod
    def of(cls, confusion: Confusion) -> _Layout:
        num_columns, num_rows = len(confusion.predictions), len(confusion.truths)
        cell = next(size for limit, size in ((4, 62.0), (8, 40.0), (14, 30.0), (20, 27.0), (10_000, 24.0)) if num_rows <= limit)
        longest = min(max(text_width(name) for name in confusion.predictions), 170.0)
        left = max(min(max(text_width(name) for name in confusion.truths), 170.0) + 10, 84.0)
        slant = longest * 0.72
        width = left + num_columns * cell + max(slant - cell / 2, 4)
        return cls(cell, left, slant + 16, width, slant + 16 + num_rows * cell + 2)


def _draw(confusion: Confusion, layout: _Layout, under: str = "", *, margin: float = 0.0) -> str:
    total, right = sum(map(sum, confusion.counts)), sum(row[index] for index, row in enumerate(confusion.counts))
    says = f"Confusion matrix of {len(confusion.truths)} classes, truth in rows, predictions in columns; {right} of {total} rows are right."
    parts = [under, words("truth ↓", layout.left - 8, layout.top - 24, class_="soft small", anchor="end")]
    parts.append(words("predicted →", layout.left - 8, layout.top - 8, class_="soft small", anchor="end"))
    size = {"width": layout.cell * len(confusion.predictions), "height": layout.cell * len(confusion.truths)}
    parts.append(tag("rect", x=layout.left, y=layout.top, class_="cell", **size))
    parts += [_column_name(layout, index, name) for index, name in enumerate(confusion.predictions)]
    for index, (name, row) in enumerate(zip(confusion.truths, confusion.counts, strict=True)):
        y = layout.top + layout.cell * index
        parts.append(words(fit(name, layout.left - 8), layout.left - 8, y + layout.cell / 2 + 4, anchor="end"))
        parts += [_cell(confusion, layout, (index, column), sum(row)) for column, number in enumerate(row) if number]
    return picture(layout.width, layout.height, "Confusion matrix", *parts, *_grid(confusion, layout), description=says, margin=margin)


def _column_name(layout: _Layout, index: int, name: str) -> str:
    x, y = layout.left + layout.cell * (index + 0.5) + 2, layout.top - 7
    return words(fit(name, 170), x, y, transform=f"rotate(-45 {x:.1f} {y:.1f})")


def _cell(confusion: Confusion, layout: _Layout, place: tuple[int, int], total: int) -> str:
    row, column = place
    number, share = confusion.counts[row][column], confusion.counts[row][column] / total
    x, y = layout.left + layout.cell * column, layout.top + layout.cell * row
    strength = 0.12 + 0.88 * share**0.6
    said = f"{confusion.truths[row]} → {confusion.predictions[column]}: {count(number, 'row')}, {percent(share, 0)}"
    size = "small" if layout.cell < 30 or number > 999 else None
    look = " ".join(filter(None, [_contrast(strength), size])) or None
    colour = "right" if row == column else "wrong"
    return tag(
        "g",
        tag("title", escape(said)),
        tag("rect", x=x, y=y, width=layout.cell, height=layout.cell, class_=colour, fill_opacity=f"{strength:.2f}"),
        words(str(number), x + layout.cell / 2, y + layout.cell / 2 + 4, class_=look, anchor="middle"),
    )


def _contrast(strength: float) -> str | None:
    """Return the class of text that stays readable on a fill of this strength, on light and dark pages alike."""
    return "strong" if strength > 0.84 else "medium" if strength > 0.58 else None


def _grid(confusion: Confusion, layout: _Layout) -> list[str]:
    right = layout.left + layout.cell * len(confusion.predictions)
    bottom = layout.top + layout.cell * len(confusion.truths)
    across = [path([(layout.left, y), (right, y)], "grid") for y in _steps(layout.top, bottom, layout.cell)]
    return across + [path([(x, layout.top), (x, bottom)], "grid") for x in _steps(layout.left, right, layout.cell)]


def _steps(low: float, high: float, step: float) -> list[float]:
    return [low + step * index for index in range(round((high - low) / step) + 1)]
