"""What a run that was tuned further has forgotten, in a sentence and a table."""

from __future__ import annotations

from typing import Any

from luthier.explain.headline import difference_sentence
from luthier.explain.story import as_score
from luthier.explain.wording import NONE, count, interval, is_share, metric_name, metric_value, percent

SHOWN = ("accuracy", "f1_macro", "mcc", "loss", "perplexity", "token_accuracy")


def forgetting_sentence(found: Any) -> str:
    """Say how the old rows were answered before and after; nothing where that was not measured.

    Args:
        found: `forgetting` of `metrics.json`, or None.
    """
    if not found:
        return ""
    said = " ".join(_change(one) for one in (found, *found.get("earlier", ())))
    kept = ", ".join(found["kept_by"])
    return f"{said} Kept by: {kept}." if kept else f"{said} Nothing was done to keep them: keep.replay, keep.ewc or training.l2_sp would."


def _change(found: Any) -> str:
    comparison = found["comparison"]
    rows = f"{count(found['rows'])} {found['split']} rows of {found['run']}"
    if comparison.get("metric") == "loss":
        said = f"On the {rows}: a loss of {comparison['base']:.3f} before, {comparison['tuned']:.3f} after. {_of_loss(comparison)}"
    elif not comparison.get("metric", "accuracy").endswith("accuracy"):
        metric, values = comparison["metric"], {key: comparison[key] for key in ("base", "tuned")}
        before, after = (metric_value(metric, value) for value in values.values())
        said = f"On the {rows}: {metric_name(metric)} {before} before, {after} after. {_of_score(comparison)}"
    else:
        said = f"On the {rows}: {percent(comparison['base'])} right before, {percent(comparison['tuned'])} after."
        said = f"{said} {difference_sentence(comparison)}"
    return said


def _of_score(comparison: Any) -> str:
    if is_share(comparison["metric"]):
        return difference_sentence(comparison)
    size = f"{comparison['difference']:+.3f} (from {comparison['low']:+.3f} to {comparison['high']:+.3f})".replace("-", "−")
    verdict = {"better": "is a real gain, not chance", "worse": "is a real loss, not chance"}.get(comparison["verdict"], "may be chance")
    return f"The difference of {size} {verdict}."


def _of_loss(comparison: Any) -> str:
    size = f"{comparison['difference']:+.3f} (from {comparison['low']:+.3f} to {comparison['high']:+.3f})".replace("-", "−")
    verdict = {"better": "is a real gain, not chance", "worse": "is a real loss, not chance"}.get(comparison["verdict"], "may be chance")
    return f"The difference in loss of {size} {verdict}."


def forgetting_table(found: Any) -> list[tuple[str, tuple[str, str], tuple[str, str]]]:
    """Return name, value and interval before, and both after, of the scores on the old rows."""
    if not found:
        return []
    return [
        (metric_name(metric), _cell(metric, found["before"].get(metric)), _cell(metric, found["after"].get(metric)))
        for metric in dict.fromkeys([found["comparison"].get("metric", SHOWN[0]), *SHOWN])
        if metric in found["before"]
    ]


def _cell(metric: str, given: Any) -> tuple[str, str]:
    score = as_score(given)
    return (metric_value(metric, score.value), interval(metric, score)) if score else (NONE, "")
