"""The progress of a training: a bar with loss, speed, time left and scores in a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from luthier.cli.output import Output
from luthier.core.tick import Tick

OF_A_TASK = ("f1", "accuracy", "spearman", "perplexity")
MOST_SHOWN = 3
SECONDS_BETWEEN_LINES = 15.0


def follow(training: Iterable[Tick], output: Output) -> None:
    """Run a training to its end and show how it goes."""
    if output.console.is_terminal:
        _with_bar(training, output)
    else:
        _with_lines(training, output)


def _with_bar(training: Iterable[Tick], output: Output) -> None:
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=output.console, expand=True) as progress:
        bar = None
        loss = None
        for tick in training:
            if bar is None:
                bar = progress.add_task("", total=tick.total_steps, completed=tick.step - 1)
            loss = tick.loss if loss is None else 0.9 * loss + 0.1 * tick.loss
            progress.update(bar, completed=tick.step, description=f"loss {loss:.3f}  {tick.tokens_per_second:,.0f} tok/s")
            if tick.scores:
                progress.console.print(_scores_of(tick))


def _with_lines(training: Iterable[Tick], output: Output) -> None:
    said, seconds, loss = 0.0, None, None
    for tick in training:
        seconds = tick.seconds if seconds is None or tick.step < 5 else 0.9 * seconds + 0.1 * tick.seconds
        loss = tick.loss if loss is None else 0.9 * loss + 0.1 * tick.loss
        if tick.scores:
            output.say(_scores_of(tick))
        elif (tick.step >= 5 and time.time() - said > SECONDS_BETWEEN_LINES) or tick.step == tick.total_steps:
            left = (tick.total_steps - tick.step) * seconds
            speed = f"{tick.tokens_per_second:,.0f} tokens/s"
            output.say(f"step {tick.step}/{tick.total_steps}  loss {loss:.3f}  {speed}  about {left:.0f} s left")
            said = time.time()


def _scores_of(tick: Tick) -> str:
    scores = (tick.scores or {}).get("validation", {})
    usual = [name for name in ("f1", "accuracy", "f1_macro", "perplexity", "token_accuracy") if name in scores]
    names = usual or [name for name in scores if name != "loss"][:MOST_SHOWN]
    shown = "  ".join(f"{name} {scores[name]:.3f}" for name in names)
    best = "  (best so far)" if tick.best else ""
    if "score" in scores:
        return f"epoch {tick.epoch:g}: validation score {scores['score']:.3f}  {_of_each(scores)}{best}"
    loss = f"loss {scores['loss']:.3f}  " if "loss" in scores else ""
    return f"epoch {tick.epoch:g}: validation {loss}{shown}{best}"


def _of_each(scores: dict[str, float]) -> str:
    """Return one score of each of several tasks, which have them as `NAME/score`."""
    tasks: dict[str, list[str]] = {}
    for key in scores:
        name, _, score = key.rpartition("/")
        if name:
            tasks.setdefault(name, []).append(score)
    shown = {name: next((score for score in OF_A_TASK if score in known), known[0]) for name, known in tasks.items()}
    return "  ".join(f"{name}/{score} {scores[f'{name}/{score}']:.3f}" for name, score in shown.items())
