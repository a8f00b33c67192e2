"""The result of a run in sentences, for the report and the card."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from luthier.explain.story import Score, Story, as_score, lookup
from luthier.explain.wording import count, p_value, percent, points


def model_name(story: Story) -> str:
    """Return the last part of the model's path or hub id."""
    return PurePath(str(story.setting("model.path", "a model built from zero"))).name


def data_name(story: Story) -> str:
    """Return the names of the files of rows, without their folders."""
    given = [story.setting(f"data.{split}") for split in ("train", "validation", "test")]
    paths = [path for path in given if path]
    return ", ".join(dict.fromkeys(PurePath(str(path)).name for path in paths)) or "rows"


def score_sentence(story: Story) -> str:
    """Say how often the model is right, with the interval."""
    score = story.score("accuracy")
    if not story.metrics:
        return "This run is not finished: it has no scores yet. Go on with luthier train --resume."
    if score is None:
        return "Nothing was held out, so there is no score. Hold rows out with data.split.test=0.2, or measure later with luthier evaluate."
    what = "All labels of a row are right" if story.sheet.get("multi_label") else "The answer is right"
    rows = f"{count(story.num_measured)} {story.split} rows" if story.num_measured else f"the {story.split} rows"
    sentence = f"{what} on {percent(score.value)} of {rows}."
    if score.low < score.high:
        confidence = percent(story.sheet.get("confidence") or 0.95, 0)
        between = f"between {percent(score.low)} and {percent(score.high)}"
        sentence += f" On other rows of the same kind, expect {between} ({confidence} interval)."
    return sentence


def baseline_score(story: Story, metric: str = "accuracy") -> Score | None:
    """Return a score of the untuned model on the headline split."""
    return as_score(lookup(story.sheet, "baseline", "scores", metric))


def baseline_sentence(story: Story) -> str:
    """Say how the tuned model stands against the untuned one, and whether the difference is real."""
    base = baseline_score(story)
    if base is None:
        return ""
    name = lookup(story.sheet, "baseline", "name") or "the untuned model"
    return f"Without tuning ({name}): {percent(base.value)}. {difference_sentence(lookup(story.sheet, 'comparison') or {})}".strip()


def difference_sentence(comparison: Any) -> str:
    """Say how large a difference is and whether it could be chance."""
    difference = comparison.get("difference")
    if difference is None:
        return ""
    low, high = (comparison.get(edge, difference) for edge in ("low", "high"))
    size = f"{points(difference)} points (from {points(low)} to {points(high)})"
    chance = p_value(comparison.get("p_value"))
    chance = f" ({chance})" if chance else ""
    if low <= 0 <= high:
        return f"The difference of {size} may be chance{chance}: these rows cannot tell the two apart."
    verdict = "is a real gain" if difference > 0 else "is a real loss"
    return f"The difference of {size} {verdict}, not chance{chance}."
