"""A whole training: the loop with evaluation, checkpoints, early stopping and a stop that loses nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from luthier.core.errors import RunStopped
from luthier.core.tick import Tick
from luthier.training.checkpoint.folders import name_of
from luthier.training.checkpoint.keeping import Keeping
from luthier.training.events import EventLog
from luthier.training.section import EarlyStopping
from luthier.training.signals import StopRequested, StopSignal
from luthier.training.state import TrainingState

log = logging.getLogger("luthier")
MOST_SKIPS = 3


@dataclass(frozen=True)
class Plan:
    """What happens when, besides the steps.

    Args:
        eval_every: Steps between evaluations; None where there is nothing to evaluate on.
        save_every: Steps between checkpoints.
        total_steps: Steps of the run; the last one is always evaluated and saved.
        keep: Newest checkpoints that are kept.
        early_stopping: When to stop before the end, or None.
        metric: Validation score that picks the best step.
        greater_is_better: Direction of that score.
    """

    eval_every: int | None
    save_every: int
    total_steps: int
    keep: int
    early_stopping: EarlyStopping | None
    metric: str
    greater_is_better: bool

    def evaluates(self, step: int) -> bool:
        """Whether the step is followed by an evaluation."""
        return self.eval_every is not None and (step % self.eval_every == 0 or step == self.total_steps)

    def saves(self, step: int) -> bool:
        """Whether the step is followed by a checkpoint."""
        return step % self.save_every == 0 or step == self.total_steps


def fit(
    steps: Iterator[Tick],
    state: TrainingState,
    plan: Plan,
    *,
    evaluate: Callable[[], dict[str, float]],
    keeping: Keeping,
    events: EventLog,
    stop: StopSignal,
) -> Iterator[Tick]:
    """Run the steps; evaluate, save and stop as planned. Every tick is logged before it is yielded.

    Args:
        steps: The loop.
        state: Counters of the run.
        plan: What happens when.
        evaluate: Returns the validation scores; may raise StopRequested.
        keeping: Writes checkpoints.
        events: The log.
        stop: Says whether somebody asked to stop.

    Raises:
        RunStopped: after three steps in a row without a finite loss or gradient; the last checkpoint's weights are put back.
    """
    if owes_evaluation(state, plan) and not stop.is_agreed():
        _take_scores(state, plan, evaluate, events)
        if state.stopped_early:
            return
    for tick in steps:
        if tick.skipped:
            log.warning("step %d was skipped: %s", tick.step, tick.skipped)
        if state.skipped_in_row >= MOST_SKIPS:
            events.tick(tick)
            _give_up(keeping, tick, events)
        stopping = stop.is_agreed()
        if owes_evaluation(state, plan) and not stopping:
            tick = _evaluated(tick, state, plan, evaluate)
            stopping = stop.is_agreed()
        if plan.saves(tick.step) or tick.best or stopping or state.stopped_early:
            tick = replace(tick, saved=name_of(tick.step))
        events.tick(tick)  # before the checkpoint: a kill between the two must not leave the step out of the log
        if tick.saved:
            events.settle()
            keeping.save()
        yield tick
        if state.stopped_early or stopping:
            return


def owes_evaluation(state: TrainingState, plan: Plan) -> bool:
    """Whether the last finished step is to be evaluated and was not, as after a stop in the middle of it."""
    return state.step > 0 and plan.evaluates(state.step) and state.evaluated_step != state.step


def _take_scores(state: TrainingState, plan: Plan, evaluate: Callable[[], dict[str, float]], events: EventLog) -> None:
    """Do the evaluation that a stopped run still owes, before its next step."""
    try:
        scores = evaluate()
    except StopRequested:
        return
    best = _note(state, scores, plan)
    events.event("evaluated", at_step=state.step, scores={"validation": scores}, best=best)


def _note(state: TrainingState, scores: dict[str, float], plan: Plan) -> bool:
    state.evaluated_step = state.step
    best = note_score(state, scores[plan.metric], plan)
    if plan.early_stopping is not None and state.without_gain >= plan.early_stopping.patience:
        state.stopped_early = True
    return best


def _evaluated(tick: Tick, state: TrainingState, plan: Plan, evaluate: Callable[[], dict[str, float]]) -> Tick:
    try:
        scores = evaluate()
    except StopRequested:
        return tick
    return replace(tick, scores={"validation": scores}, best=_note(state, scores, plan))


def note_score(state: TrainingState, score: float, plan: Plan) -> bool:
    """Take a validation score into the state; returns whether it is the best so far."""
    gain = plan.early_stopping.min_delta if plan.early_stopping else 0.0
    sign = 1 if plan.greater_is_better else -1
    state.scores.append(sign * score)
    if state.best_score is None or sign * (score - state.best_score) > gain:
        state.best_score, state.best_step, state.without_gain = score, state.step, 0
        return True
    state.without_gain += 1
    return False


def _give_up(keeping: Keeping, tick: Tick, events: EventLog) -> None:
    name = keeping.put_back_weights()
    events.event("diverged", at_step=tick.step, reason=tick.skipped, back_to=name)
    kept = f"the weights of {name} are kept" if name else "no checkpoint had been written yet"
    raise RunStopped(
        f"the training diverged: {tick.skipped} at step {tick.step}, the third time in a row; {kept}",
        fix=f"start again with a smaller rate, such as optim.learning_rate={tick.learning_rate / 4:.1g}",
    )
