"""A comparison of variants for people: a table in Markdown, and a picture of scores with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.explain import wording
from luthier.explain.svg import LIGHT, STYLE, Frame, escape, fit, path, picture, round_steps, tag, text_width, words

HEADS = ("recipe", "variant", "score", "interval", "trained", "time", "peak memory")
WIDTH, ROW, MARGIN = 760.0, 24.0, 16.0
MOST_NAME, RIGHT = 240.0, 210.0
SPACE_AROUND = 0.04  # of the range of the scores, on each side
TOP, BOTTOM = 26.0, 34.0


def cells_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one row of the table as texts, in the order of `HEADS`.

    Args:
        row: A row of `comparison.json`.
    """
    metric, score = row["metric"], row["score"]
    seeds = len([run for run in row["runs"] if run["state"] == "finished"])
    shown = "–" if score is None else wording.metric_value(metric, score["value"])
    if score is not None and seeds < len(row["runs"]):
        shown += f" ({seeds} of {len(row['runs'])} seeds)"
    if score is None:
        shown = row["state"]
    return (
        row["recipe"],
        row["variant"],
        shown,
        interval_of(metric, score),
        trained_of(row["trained_share"]),
        wording.duration(row["training_seconds"]),
        wording.size(row["peak_memory_bytes"]),
    )


def interval_of(metric: str, score: Mapping[str, Any] | None) -> str:
    """Return the interval of a score as words; a dash where it has none."""
    if score is None or score["low"] is None or score["high"] is None:
        return wording.NONE
    low, high = wording.metric_value(metric, score["low"]), wording.metric_value(metric, score["high"])
    return f"{low.removesuffix(f'{wording.SPACE}%')}–{high}"


def trained_of(share: float | None) -> str:
    """Return a share of trained numbers as a percentage, with enough digits for the smallest adapters."""
    return wording.percent(share, 1 if share is None or share >= 0.01 else 3)


def measured_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what is measured of each recipe, such as `Accuracy, test rows`."""
    said = {}
    for recipe in found["recipes"]:
        rows = sorted((row for row in found["rows"] if row["recipe"] == recipe), key=lambda row: row["split"] is None)
        said[recipe] = wording.metric_name(rows[0]["metric"]) + (f", {rows[0]['split']} rows" if rows[0]["split"] else "")
    return said


def seeds_of(found: Mapping[str, Any]) -> str:
    """Return the seeds in words."""
    seeds = [str(seed) for seed in found["seeds"]]
    return f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def errors_of(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the variants that failed, each with what the first of its runs said."""
    return [(f"{row['variant']} on {row['recipe']}", row["error"]) for row in found["rows"] if row["error"]]


def markdown_table(found: Mapping[str, Any]) -> str:
    """Write the table as Markdown.

    Args:
        found: The object of `comparison.json`.
    """
    lines = [f"# {found['sweep']}", "", _what(found), "", f"| {' | '.join(HEADS)} |", "|---|---|" + "---:|" * (len(HEADS) - 2)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells_of(row)) + " |" for row in found["rows"]]
    failed = errors_of(found)
    lines += ["", *(f"- {name} failed: {error}" for name, error in failed)] if failed else []
    return "\n".join([*lines, "", ""])


def note_of(found: Mapping[str, Any]) -> str:
    """Return what the numbers of the table are, in a few sentences."""
    seeds = len(found["seeds"])
    said = "Scores are means over the seeds; their intervals allow for other rows and for other seeds. " if seeds > 1 else ""
    said += "Trained is the share of the numbers of the model that are ever trained, the head among them. "
    said += "Time is that of the training steps, without evaluation; peak memory is that of the run's own process"
    together = found["workers"]
    return said + (f"; {together} runs at a time shared the cores." if together > 1 else ".")


def _what(found: Mapping[str, Any]) -> str:
    measured = "; ".join(f"{recipe}: {what}" for recipe, what in measured_of(found).items())
    counts = ", ".join(f"{number} {state}" for state, number in found["counts"].items() if number)
    return f"{measured}. {seeds_of(found)}; runs: {counts}. {note_of(found)}"


def comparison_file(found: Mapping[str, Any]) -> str:
    """Draw the scores with their intervals as a file of its own, a field for each recipe.

    Args:
        found: The object of `comparison.json`; some row has a score.
    """
    style = STYLE
    for name, colour in LIGHT.items():
        style = style.replace(f"var(--{name})", colour)
    background = tag("rect", x=-MARGIN, y=-MARGIN, width="100%", height="100%", fill=LIGHT["card"])
    return picture_of(found, tag("style", style) + background, margin=MARGIN) + "\n"


def picture_of(found: Mapping[str, Any], *before: str, margin: float = 0.0) -> str:
    """Draw the scores with their intervals, a field for each recipe.

    Args:
        found: The object of `comparison.json`; some row has a score.
        before: What is drawn under it.
        margin: Empty space on each side.
    """
    parts: list[str] = []
    top = 0.0
    for recipe, measured in measured_of(found).items():
        rows = [row for row in found["rows"] if row["recipe"] == recipe]
        if any(row["score"] for row in rows):
            parts += _field(f"{recipe}: {measured}", rows, top)
            top += TOP + len(rows) * ROW + BOTTOM
    return picture(WIDTH, top, "Variants compared", *before, *parts, description=_said(found), margin=margin)


def _field(name: str, rows: Sequence[Mapping[str, Any]], top: float) -> list[str]:
    scores = [row["score"] for row in rows if row["score"]]
    low = min(score["value"] if score["low"] is None else score["low"] for score in scores)
    high = max(score["value"] if score["high"] is None else score["high"] for score in scores)
    room = (high - low or abs(high) or 1.0) * SPACE_AROUND
    left = min(MOST_NAME, max(text_width(row["variant"]) for row in rows)) + 12
    frame = Frame(left, top + TOP, WIDTH - RIGHT, top + TOP + len(rows) * ROW, low - room, high + room)
    parts = [words(name, 0, top + 14, class_="bold")]
    parts.append(words("trained · time · memory", WIDTH, top + 14, class_="soft small", anchor="end"))
    for level in round_steps(frame.x_low, frame.x_high):
        parts.append(path([(frame.x(level), frame.top), (frame.x(level), frame.bottom)], "grid"))
        value = wording.metric_value(rows[0]["metric"], level)
        parts.append(words(value, frame.x(level), frame.bottom + 15, class_="soft small", anchor="middle"))
    for place, row in enumerate(rows):
        parts += _row(row, frame, frame.top + (place + 0.5) * ROW)
    return parts


def _row(row: Mapping[str, Any], frame: Frame, y: float) -> list[str]:
    name = fit(row["variant"], MOST_NAME)
    parts = [tag("g", tag("title", escape(row["variant"])), words(name, frame.left - 8, y + 4, anchor="end"))]
    score = row["score"]
    if score is None:
        return [*parts, words(row["state"], frame.left + 6, y + 4, class_="soft small")]
    if score["low"] is not None and score["high"] is not None:
        parts.append(path([(frame.x(score["low"]), y), (frame.x(score["high"]), y)], "line first"))
    dot = tag("circle", tag("title", escape(cells_of(row)[2])), cx=frame.x(score["value"]), cy=y, r=4.5, class_="first-fill")
    facts = " · ".join(cells_of(row)[4:])
    return [*parts, dot, words(facts, WIDTH, y + 4, class_="soft small", anchor="end")]


def _said(found: Mapping[str, Any]) -> str:
    best = []
    for recipe in found["recipes"]:
        rows = [row for row in found["rows"] if row["recipe"] == recipe and row["score"]]
        if rows:
            top = max(rows, key=lambda row: row["score"]["value"])
            best.append(f"{recipe}: highest is {top['variant']} with {wording.metric_value(top['metric'], top['score']['value'])}")
    return "; ".join(best) + "."
