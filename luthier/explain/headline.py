"""The result of a run in sentences, for the report and the card."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from luthier.explain.story import Score, Story, as_score, lookup
from luthier.explain.wording import count, metric_name, metric_value, p_value, percent, plain, points

OF_TEXTS = ("bleu", "exact_match", "rougeL")


def model_name(story: Story) -> str:
    """Return the last part of the model's path or hub id, or what was built from nothing."""
    built = story.setting("model.scratch.architecture")
    if built:
        return f"{built} from nothing"
    tuned_further = story.setting("keep.run")
    if tuned_further:
        return PurePath(str(tuned_further)).name
    return PurePath(str(story.setting("model.path", "a model built from zero"))).name


def data_name(story: Story) -> str:
    """Return the names of the files of rows, without their folders."""
    given = [story.setting(f"data.{split}") for split in ("train", "validation", "test")]
    paths = [path for path in given if path]
    return ", ".join(dict.fromkeys(PurePath(str(path)).name for path in paths)) or "rows"


def score_sentence(story: Story) -> str:
    """Say how often the model is right, with the interval."""
    score = story.score(story.primary if story.answers_rows else "accuracy")
    if story.writes and story.score("perplexity"):
        return _perplexity_sentence(story)
    if not story.metrics:
        return "This run is not finished: it has no scores yet. Go on with luthier train --resume."
    if score is None:
        return "Nothing was held out, so there is no score. Hold rows out with data.split.test=0.2, or measure later with luthier evaluate."
    what = "All labels of a row are right" if story.sheet.get("multi_label") else "The answer is right"
    rows = f"{count(story.num_measured)} {story.split} rows" if story.num_measured else f"the {story.split} rows"
    sentence = f"{what} on {percent(score.value)} of {rows}."
    if story.answers_rows:
        sentence = f"{metric_name(story.primary)} is {metric_value(story.primary, score.value)} on {rows}."
    if score.low < score.high:
        confidence = percent(story.sheet.get("confidence") or 0.95, 0)
        low, high = (metric_value(story.primary if story.answers_rows else "accuracy", end) for end in (score.low, score.high))
        between = f"between {low} and {high}"
        sentence += f" On other rows of the same kind, expect {between} ({confidence} interval)."
    return sentence


def _perplexity_sentence(story: Story) -> str:
    """Say how well the model foresees the tokens of the held-out rows."""
    perplexity, loss, right = (story.score(name) for name in ("perplexity", "loss", "token_accuracy"))
    assert perplexity is not None
    rows = f"{count(story.num_measured)} {story.split} rows ({count(story.sheet.get('num_tokens'), 'token')})"
    sentence = f"The perplexity is {plain(perplexity.value)} on {rows}"
    if loss is not None and right is not None:
        sentence += f": a loss of {loss.value:.3f} nats per token; the most likely token is the right one in {percent(right.value)}"
    sentence += "."
    if perplexity.low < perplexity.high:
        confidence = percent(story.sheet.get("confidence") or 0.95, 0)
        sentence += f" On other rows of the same kind, expect {plain(perplexity.low)} to {plain(perplexity.high)} ({confidence} interval)."
    return sentence + _written_sentence(story)


def _written_sentence(story: Story) -> str:
    """Say how good the texts are that the model wrote, where they were scored."""
    found = next(((name, score) for name in OF_TEXTS if (score := story.score(name)) is not None), None)
    if found is None:
        return ""
    rows = count(lookup(story.sheet, "written", "num_rows"), "row")
    return f" {metric_name(found[0])} is {metric_value(found[0], found[1].value)} for the texts that it wrote for {rows}."


def baseline_score(story: Story, metric: str = "accuracy") -> Score | None:
    """Return a score of the untuned model on the headline split."""
    return as_score(lookup(story.sheet, "baseline", "scores", metric))


def baseline_sentence(story: Story) -> str:
    """Say how the tuned model stands against the untuned one, and whether the difference is real."""
    if story.writes:
        return _loss_difference(story)
    if story.answers_rows:
        return _difference_in_primary(story)
    base = baseline_score(story)
    if base is None:
        return ""
    name = lookup(story.sheet, "baseline", "name") or "the untuned model"
    return f"Without tuning ({name}): {percent(base.value)}. {difference_sentence(lookup(story.sheet, 'comparison') or {})}".strip()


def _difference_in_primary(story: Story) -> str:
    """Say how the score that a run is judged by stands against that of the untuned model."""
    found, metric = lookup(story.sheet, "comparison"), story.primary
    if not found:
        return ""
    said = {"better": "a real gain, not chance", "worse": "a real loss, not chance"}.get(found["verdict"], "which may be chance")
    size, low, high = (f"{found[key]:+.3f}".replace("-", "−") for key in ("difference", "low", "high"))
    before = f"{metric_name(metric)} {metric_value(metric, found['base'])}"
    return f"Without tuning ({lookup(story.sheet, 'baseline', 'name')}): {before}. The difference is {size} (from {low} to {high}), {said}."


def _loss_difference(story: Story) -> str:
    """Say how the loss of the tuned model stands against that of the untuned one."""
    found = lookup(story.sheet, "comparison")
    if not found:
        return ""
    said = {"better": "a real gain, not chance", "worse": "a real loss, not chance"}.get(found["verdict"], "which may be chance")
    size = f"{found['difference']:+.3f} (from {found['low']:+.3f} to {found['high']:+.3f})".replace("-", "−")
    base = baseline_score(story, "perplexity")
    before = f"a loss of {found['base']:.3f}" + (f", a perplexity of {plain(base.value)}" if base else "")
    return f"Without tuning ({lookup(story.sheet, 'baseline', 'name')}): {before}. The difference in loss is {size}, {said}."


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
