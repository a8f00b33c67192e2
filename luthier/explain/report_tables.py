"""The tables of a run, as rows that are ready to be read."""

from __future__ import annotations

from typing import Any, NamedTuple

from luthier.explain.confusion import Pair, confused_pairs, focus
from luthier.explain.story import Plain, Score, Story, as_score, lookup
from luthier.explain.wording import NONE, count, interval, metric_name, metric_value, percent, plain

CLASSES_AT_ONCE = 16
WAYS = ("macro", "micro", "weighted")


class ScoreRow(NamedTuple):
    """One metric over the splits: value and interval of each."""

    name: str
    cells: list[tuple[str, str]]


class ScoreSheet(NamedTuple):
    """The scores of one split: those that stand alone, and those with one value per way of averaging over the classes."""

    split: str
    alone: list[tuple[str, str, str]]
    ways: list[str]
    averaged: list[tuple[str, list[tuple[str, str]]]]


class ClassRow(NamedTuple):
    """One class: its scores as shares of 1, and how many rows it has."""

    label: str
    f1: float
    precision: float
    recall: float
    support: int


class Mistake(NamedTuple):
    """One wrong answer, in words."""

    row: str
    text: str
    second: str
    truth: str
    predicted: str
    probability: str
    truth_probability: str


def score_table(story: Story) -> tuple[list[str], list[ScoreRow]]:
    """Return the names of the splits and one row per metric, the headline split first."""
    measured = [name for name, scores in (story.metrics.get("scores") or {}).items() if scores]
    splits = sorted(measured, key=lambda name: name != story.split)
    metrics = list(dict.fromkeys(metric for name in splits for metric in story.metrics["scores"][name]))
    return splits, [ScoreRow(metric_name(metric), [_score_cell(story, metric, split) for split in splits]) for metric in metrics]


def score_sheets(story: Story) -> list[ScoreSheet]:
    """Return the scores of each split, the headline split first."""
    return [_score_sheet(story, split) for split in score_table(story)[0]]


def _score_sheet(story: Story, split: str) -> ScoreSheet:
    metrics = list(story.metrics["scores"][split])
    ways = [way for way in WAYS if any(metric.endswith(f"_{way}") for metric in metrics)]
    names = list(dict.fromkeys(metric.rpartition("_")[0] for metric in metrics if metric.rpartition("_")[2] in WAYS))
    alone = [(metric_name(metric), *_score_cell(story, metric, split)) for metric in metrics if metric.rpartition("_")[2] not in WAYS]
    averaged = [(metric_name(name), [_score_cell(story, f"{name}_{way}", split) for way in ways]) for name in names]
    return ScoreSheet(split, alone, ways, averaged)


def _score_cell(story: Story, metric: str, split: str) -> tuple[str, str]:
    score = story.score(metric, split=split)
    return _cell(metric, score) if score else (NONE, "not defined here")


def _cell(metric: str, score: Score | None) -> tuple[str, str]:
    return (metric_value(metric, score.value), interval(metric, score)) if score else (NONE, "")


def class_rows(story: Story) -> dict[str, Any]:
    """Return the classes, the worst first, those to hide at first, and the pairs that are confused most."""
    rows = sorted((_class_row(item) for item in story.sheet.get("per_class") or []), key=lambda row: (row.f1, row.label))
    few = len(rows) <= CLASSES_AT_ONCE + 4
    return {"shown": rows if few else rows[:CLASSES_AT_ONCE], "more": [] if few else rows[CLASSES_AT_ONCE:], **_confusions(story)}


def _class_row(item: Plain) -> ClassRow:
    f1, precision, recall = (float(item.get(name) or 0) for name in ("f1", "precision", "recall"))
    return ClassRow(str(item.get("label")), f1, precision, recall, int(item.get("support") or 0))


def _confusions(story: Story) -> dict[str, Any]:
    counts, labels = story.sheet.get("confusion") or [], [str(label) for label in story.sheet.get("labels") or []]
    pairs: list[Pair] = confused_pairs(labels, counts) if len(labels) > 2 and counts else []
    return {"pairs": pairs, "note": focus(labels, counts).note if counts else ""}


def slice_heads(story: Story) -> tuple[str, ...]:
    """Return what the columns of `slice_rows` are called."""
    if story.answers_rows:
        return (metric_name(story.primary),)
    return ("perplexity", "token accuracy") if story.writes else ("untuned accuracy", "tuned accuracy", "F1, macro")


def slice_rows(story: Story) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return each slice with its number of rows, and with intervals the scores that `slice_heads` names."""
    rows = []
    for name, facts in (story.sheet.get("slices") or {}).items():
        untuned = lookup(story.sheet, "baseline", "slices", name, "accuracy")
        scores = [("accuracy", untuned), ("accuracy", facts.get("accuracy")), ("f1_macro", facts.get("f1_macro"))]
        if story.writes:
            scores = [(metric, facts.get(metric)) for metric in ("perplexity", "token_accuracy")]
        if story.answers_rows:
            scores = [(story.primary, facts.get(story.primary))]
        cells = [_cell(metric, as_score(score)) for metric, score in scores]
        rows.append((str(name) or "(empty)", count(facts.get("num_rows")), cells))
    return rows


def mistakes(story: Story) -> list[Mistake]:
    """Return the worst mistakes, the one the model was surest of first."""
    return [
        Mistake(
            str(item.get("id", "")),
            str(item.get("text", "")),
            str(item.get("text_pair") or ""),
            _label(item.get("truth")),
            _label(item.get("predicted")),
            *(percent(item[key], 0) if item.get(key) is not None else "" for key in ("probability", "truth_probability")),
        )
        for item in story.sheet.get("mistakes") or []
    ]


def _label(found: Any) -> str:
    if isinstance(found, float):
        return plain(found)
    return (", ".join(map(str, found)) or "no label") if isinstance(found, (list, tuple)) else str(found)
