"""The pictures of a run, by name; one that has nothing to show is left out."""

from __future__ import annotations

from collections.abc import Callable

from luthier.explain.charts import (
    WIDE,
    Line,
    Mark,
    Whisker,
    class_counts_chart,
    interval_chart,
    length_chart,
    line_chart,
    reliability_chart,
)
from luthier.explain.confusion import confusion_matrix, focus, matrix_width
from luthier.explain.curves import Points, score_series, series, smooth
from luthier.explain.headline import baseline_score
from luthier.explain.story import Score, Story, as_score, lookup
from luthier.explain.wording import is_share, metric_name, percent, plain, rate

SCORE_CURVES = (
    ("accuracy", "Validation accuracy"),
    ("f1_macro", "Validation F1, macro"),
    ("token_accuracy", "Validation token accuracy"),
)


def figures(story: Story) -> dict[str, str]:
    """Draw every picture that the run has numbers for."""
    drawn = {**_curves(story), **_scores(story), **_confusion(story), **_data(story)}
    return {name: svg for name, svg in drawn.items() if svg}


def _curves(story: Story) -> dict[str, str]:
    loss = series(story.ticks, "loss")
    if not loss:
        return {}
    rates, norms = series(story.ticks, "learning_rate"), series(story.ticks, "grad_norm")
    return {
        "loss": _loss(story, 360.0),
        "loss_wide": _loss(story, WIDE),
        "score": _score_curve(story),
        "rate": line_chart("Learning rate over the steps", [Line("learning rate", rates, "second")], write=rate) if rates else "",
        "norm": _norm(norms) if norms else "",
    }


def _norm(norms: Points) -> str:
    lines = [Line("", norms, "second faint"), Line("gradient norm before clipping", smooth(norms), "second")]
    return line_chart("Gradient norm over the steps", lines)


def _loss(story: Story, width: float) -> str:
    loss, validation = series(story.ticks, "loss"), score_series(story.ticks, "loss")
    lines = [Line("", loss, "first faint"), Line("training loss", smooth(loss), "first")]
    if validation:
        lines.append(Line("validation loss", validation, "third"))
    best = story.metrics.get("best_step")
    marks = [Mark(best, f"kept: step {best}")] if isinstance(best, int) and best < loss[-1][0] else []
    return line_chart("Loss over the steps", lines, width=width, marks=marks)


def _score_curve(story: Story) -> str:
    own = [(story.primary, f"Validation {metric_name(story.primary)}")] if story.answers_rows else []
    for metric, name in (*own, *SCORE_CURVES):
        points = score_series(story.ticks, metric)
        if points:
            write = _by_range(points) if is_share(metric) else plain
            return line_chart(f"{name} over the steps", [Line(name[0].lower() + name[1:], points, "third")], write=write)
    return ""


def _by_range(points: Points) -> Callable[[float], str]:
    values = [value for _, value in points]
    digits = 0 if max(values) - min(values) > 0.05 else 1
    return lambda value: percent(value, digits)


def _scores(story: Story) -> dict[str, str]:
    metric = story.primary if story.answers_rows else "token_accuracy" if story.writes else "accuracy"
    tuned, base = story.score(metric), baseline_score(story, metric)
    bins = [item for item in story.sheet.get("reliability") or [] if item.get("count")]
    slices = [
        Whisker(str(name), score, "second")
        for name, facts in (story.sheet.get("slices") or {}).items()
        if (score := as_score(lookup(facts, "accuracy"))) is not None
    ]
    return {
        "headline": _before_and_after(base, tuned, metric_name(metric)) if base and tuned and is_share(metric) else "",
        "calibration": reliability_chart(bins) if bins else "",
        "slices": interval_chart("Accuracy of each slice, with intervals", slices) if slices else "",
    }


def _before_and_after(base: Score, tuned: Score, name: str) -> str:
    rows = [Whisker("untuned", base, "muted"), Whisker("tuned", tuned, "first")]
    return interval_chart(f"{name} before and after tuning, with intervals", rows)


def _confusion(story: Story) -> dict[str, str]:
    counts, labels = story.sheet.get("confusion"), story.sheet.get("labels") or []
    if not counts or not any(map(any, counts)):
        return {}
    shown = focus(labels, counts)
    return {"confusion": confusion_matrix(shown), "confusion_width": f"{matrix_width(shown):.0f}"}


def _data(story: Story) -> dict[str, str]:
    edges, counts = (lookup(story.data, "tokens", "histogram", name) or [] for name in ("edges", "counts"))
    limit, classes = lookup(story.data, "tokens", "max_length"), story.classes()
    return {
        "lengths": length_chart(edges, counts, limit=limit) if any(counts) and len(edges) > 1 else "",
        "balance": class_counts_chart(classes) if classes else "",
    }
