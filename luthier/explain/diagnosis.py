"""What went well or ill in a run, in plain words, with the key to change."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.explain.curve_faults import overfitting, rate_faults
from luthier.explain.finding import Finding
from luthier.explain.result_faults import (
    poor_calibration,
    small_test,
    truncated_rows,
    unbalanced_classes,
    unknown_tokens,
    worse_than_untuned,
)
from luthier.explain.story import Plain, Story
from luthier.explain.trend import FEWEST_STEPS, trend_of
from luthier.explain.wording import count, metric_name, metric_value, percent, plain

CHECKS = (
    rate_faults,
    overfitting,
    worse_than_untuned,
    unknown_tokens,
    truncated_rows,
    unbalanced_classes,
    poor_calibration,
    small_test,
)


def diagnose(ticks: Sequence[Plain], recipe: Plain, metrics: Plain, data: Plain, evaluation: Plain | None = None) -> list[Finding]:
    """Judge a run from its curves, scores and data.

    Args:
        ticks: The steps as in `events.jsonl`, in order.
        recipe: The resolved recipe.
        metrics: `metrics.json`.
        data: `data.json`.
        evaluation: `evaluation.json`.

    Returns:
        What was found, the most pressing first; exactly one finding, `healthy`, where nothing is wrong.

    Example:
        >>> diagnose([], {}, {}, {})[0].kind
        'unknown'
    """
    return diagnose_story(Story(ticks=ticks, recipe=recipe, metrics=metrics, data=data, evaluation=evaluation or {}))


def diagnose_story(story: Story) -> list[Finding]:
    """Judge a run that was read already."""
    findings = [finding for check in CHECKS for finding in check(story)]
    return findings or [_healthy(story)]


def _healthy(story: Story) -> Finding:
    trend = trend_of(story)
    if trend is None:
        says = f"There are too few steps to judge the curves: {count(len(story.ticks))}, where {FEWEST_STEPS} are needed."
        return Finding("unknown", says, "")
    says = "The curves look healthy: the loss came down and settled, and nothing else stands out."
    evidence = f"the loss went from {plain(trend.start)} to {plain(trend.end)} in {count(trend.num_steps, 'step')}"
    score = story.score("accuracy")
    if story.answers_rows and (primary := story.score(story.primary)) is not None:
        evidence += f"; {metric_name(story.primary)} on {story.split} {metric_value(story.primary, primary.value)}"
    perplexity = story.score("perplexity")
    if perplexity is not None:
        evidence += f"; perplexity on {story.split} {plain(perplexity.value)}"
    if score is not None:
        evidence += f"; accuracy on {story.split} {percent(score.value)}"
    return Finding("healthy", says, evidence)
