"""What the curves of a run say: the rate, the number of steps, and the fit."""

from __future__ import annotations

from luthier.explain.curves import score_series
from luthier.explain.finding import Finding
from luthier.explain.rates import current_rate, scaled_rate
from luthier.explain.story import Story
from luthier.explain.trend import Trend, lowest, trend_of
from luthier.explain.wording import count, percent, plain

HIGH_RATE = 5e-4  # above this, tuning all weights of a pretrained model seldom works


def rate_faults(story: Story) -> list[Finding]:
    """Judge the training loss alone: at most one finding, the one that has to be mended first."""
    trend = trend_of(story)
    if trend is None:
        return []
    looks = (_rate_too_high, _nothing_learnt, _rate_too_low, _too_few_steps, _underfitting)
    # the loss of a text never comes near 0, and of a pretrained model falls little; how low one can go that compares rows, nobody knows
    for look in looks[:1] if story.writes or story.metrics.get("rows_meet") else looks:
        finding = look(story, trend)
        if finding:
            return [finding]
    return []


def _rate_too_high(story: Story, trend: Trend) -> Finding | None:
    diverged = trend.num_skipped > 0 or trend.end > 1.05 * trend.start
    spiky = trend.num_spikes >= max(3, trend.num_steps // 200) or trend.climb > 0.35 * trend.height
    if not diverged and not spiky:
        return None
    seen = [f"the loss began at {plain(trend.start)} and ended at {plain(trend.end)}"]
    if trend.num_skipped:
        seen.append(f"{count(trend.num_skipped, 'step')} skipped because the loss or the gradient was not finite")
    if trend.num_spikes:
        seen.append(f"{count(trend.num_spikes, 'spike')} far above the starting loss")
    if trend.climb > 0.35 * trend.height:
        seen.append(f"a climb of {plain(trend.climb)} after an earlier low")
    says = "The learning rate is too high: the steps overshoot, and what was learnt is lost again."
    factor, hint = (3, "a third of now") if diverged else (2, "half of now")
    return Finding("rate-too-high", says, "; ".join(seen), *scaled_rate(story, 1 / factor, hint))


def _nothing_learnt(story: Story, trend: Trend) -> Finding | None:
    if trend.left < 0.97 or trend.fell_steadily:
        return None
    evidence = f"the loss stayed where it began: {plain(trend.start)} at first, {plain(trend.end)} at last"
    also = "If another rate does not help, the labels may not fit the texts: look at two encoded examples with `luthier check`."
    if current_rate(story) >= HIGH_RATE:
        says = f"Nothing was learnt, most likely because the learning rate is too high for this model. {also}"
        return Finding("rate-too-high", says, evidence, *scaled_rate(story, 0.2, "a fifth of now"))
    says = f"Nothing was learnt, most likely because the learning rate is too low. {also}"
    return Finding("rate-too-low", says, evidence, *scaled_rate(story, 5, "five times now"))


def _rate_too_low(story: Story, trend: Trend) -> Finding | None:
    if trend.left < 0.8 or not trend.fell_steadily:
        return None
    says = "The learning rate is too low: the loss goes down steadily, but has barely moved."
    evidence = f"from {plain(trend.start)} to {plain(trend.end)} in {count(trend.num_steps, 'step')}"
    return Finding("rate-too-low", says, evidence, *scaled_rate(story, 4, "four times now"))


def _too_few_steps(story: Story, trend: Trend) -> Finding | None:
    if trend.left < 0.2 or not trend.still_falling or _overfit_at(story) is not None:
        return None
    says = "Training ended too early: the loss was still falling at the last step."
    evidence = f"the last fifth of the steps took it down by {plain(trend.late_fall)}, to {plain(trend.end)}"
    epochs, most = _epochs(story), story.setting("training.max_steps")
    if most:
        return Finding("too-few-steps", says, evidence, f"training.max_steps={2 * int(most)}", f"now {most}")
    longer = max(round(epochs * 2), 2)
    return Finding("too-few-steps", says, evidence, f"training.epochs={longer}", f"now {plain(epochs)}")


def _underfitting(story: Story, trend: Trend) -> Finding | None:
    if trend.left < 0.5:
        return None
    says = "The model underfits: the loss came to rest while the training rows are still mostly not explained."
    evidence = f"it rests at {plain(trend.end)}, {percent(trend.left, 0)} of where it began ({plain(trend.start)})"
    dropout, rank = story.setting("model.head.dropout"), story.setting("adapter.r")
    if rank:
        return Finding("underfitting", says, evidence, f"adapter.r={2 * int(rank)}", "twice now")
    if dropout and dropout > 0.2:
        return Finding("underfitting", says, evidence, "model.head.dropout=0.1", f"now {dropout:g}")
    return Finding("underfitting", says, evidence, *scaled_rate(story, 2, "twice now; a larger model may also help"))


def overfitting(story: Story) -> list[Finding]:
    """Judge the validation loss against the training loss; without validation, only what the test gives away."""
    at = _overfit_at(story)
    if at is None:
        return _unseen_overfitting(story)
    losses = score_series(story.ticks, "loss")
    epoch = next((float(tick.get("epoch") or 0) for tick in story.ticks if tick["step"] == losses[at][0]), 0.0)
    says = "The model overfits: it goes on learning the training rows by heart and gets worse on rows it does not train on."
    if story.metrics.get("best_step") is not None:
        says += " The best step was kept, so the scores here do not suffer, only the time does."
    evidence = f"the validation loss was lowest at step {losses[at][0]:.0f} ({plain(losses[at][1])}) and ended at {plain(losses[-1][1])}"
    if story.writes:
        shorter = max(round(epoch), 1)
        change = (f"training.epochs={shorter}", "where the validation loss was lowest") if shorter < _epochs(story) else (None, "")
        return [Finding("overfitting", says, evidence, *change)]
    dropout = f"model.head.dropout={min((story.setting('model.head.dropout') or 0.1) + 0.1, 0.5):g}"
    shorter = max(round(epoch), 1)
    if shorter < _epochs(story):
        return [Finding("overfitting", says, evidence, f"training.epochs={shorter}", f"where the validation loss was lowest; or {dropout}")]
    return [Finding("overfitting", says, evidence, dropout, "more dropout; more training rows help most")]


def _overfit_at(story: Story) -> int | None:
    """Return at which evaluation the validation loss turned, where it rose for good and the score did not gain by it."""
    losses, scores = score_series(story.ticks, "loss"), dict(score_series(story.ticks, "accuracy"))
    if len(losses) < 3 or story.metrics.get("stopped_early"):
        return None
    at = lowest(losses)
    if losses[-1][1] < 1.1 * losses[at][1] or at == len(losses) - 1:
        return None
    gain = scores.get(losses[-1][0], 0.0) - scores.get(losses[at][0], 0.0)
    return None if gain > 0.005 else at


def _unseen_overfitting(story: Story) -> list[Finding]:
    trend, score = trend_of(story), story.score("accuracy")
    if trend is None or score is None or score_series(story.ticks, "loss") or trend.left > 0.1 or score.high > 0.8:
        return []
    says = (
        "The training rows are almost known by heart, while others often go wrong: this looks like overfitting, but without "
        "validation rows nobody can see when it began."
    )
    evidence = f"training loss {plain(trend.end)}; accuracy on {story.split} {percent(score.value)}"
    return [Finding("overfitting-unseen", says, evidence, "data.split.validation=0.1", "to see when it begins")]


def _epochs(story: Story) -> float:
    epochs = story.setting("training.epochs") or story.metrics.get("epochs")
    return float(epochs) if isinstance(epochs, (int, float)) else 1.0
