"""How long a run takes: from a trial on this machine, or calculated for a machine of the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from luthier.data.prepared import Prepared
from luthier.recipe import Recipe
from luthier.stages.planning.hardware import Hardware
from luthier.stages.planning.shape import Shape
from luthier.stages.planning.steps import Steps
from luthier.stages.planning.trial import HEAD_ROWS, Trial

USED = (0.5, 0.35, 0.15)  # share of a machine's peak that training reaches: at best, usually, in small steps
BANDWIDTH_USED = 0.7
PASSES_OVER_ACTIVATIONS = 4.0  # written, read in the backward pass, and their gradients
LAUNCHES_PER_LAYER, LAUNCH_SECONDS = 120, 6e-6
PROBE_ROWS, CENTROID_ROWS = 3000, 2000


@dataclass(frozen=True)
class Time:
    """Seconds of a run, and between what they may lie.

    Args:
        step: One optimiser step, on average.
        steps: All steps: what the run's `training_seconds` is, but for the start of the head.
        evaluation: Forward passes alone: the start of the head, validation, test, baseline.
        start: Until the first step, data that are prepared already.
        low: The whole at best.
        high: The whole at worst.
    """

    step: float
    steps: float
    evaluation: float
    start: float
    low: float
    high: float

    @property
    def total(self) -> float:
        """The whole."""
        return self.steps + self.evaluation + self.start

    def as_dict(self) -> dict[str, float]:
        """Return it as plain data."""
        return {name: round(value, 4) for name, value in {**asdict(self), "total": self.total}.items()}


def flops_of(shape: Shape, tokens: float, mean_length: float) -> float:
    """Return the products of a training on padded tokens: 2 forward, 2 for gradients of inputs, 2 for those of weights; and attention.

    Args:
        shape: Size of the model.
        tokens: Tokens.
        mean_length: Tokens that attend to each other, on average.
    """
    matrices = 2 * (shape.matrices + shape.passed_matrices + shape.trained_matrices)
    return tokens * (matrices + 12 * (shape.layers or 0) * shape.width * mean_length)


def here(recipe: Recipe, prepared: Prepared, steps: Steps, trial: Trial, start: float) -> Time:
    """Return the time on this machine, from what a trial found.

    Args:
        recipe: The recipe with every `auto` decided.
        prepared: Encoded rows.
        steps: The micro-batches of the run.
        trial: What was measured.
        start: Seconds that loading the libraries took.
    """
    middle, low, high = (
        steps.num_micro * float(_seconds_of(steps.padded_M, trial.tokens, found).mean())
        for found in (trial.seconds, trial.least, trial.most)
    )
    update = steps.num_steps * trial.update_seconds
    answers = _forward_tokens(recipe, prepared, steps) * trial.answer_seconds
    answers += trial.head_seconds * min(PROBE_ROWS, len(prepared.splits["train"])) / HEAD_ROWS
    begin = start + trial.start_seconds
    rest = update + answers + begin
    return Time((middle + update) / steps.num_steps, middle + update, answers, begin, 0.9 * (low + rest), 1.25 * (high + rest))


def _seconds_of(padded_M: np.ndarray, tokens: list[float], seconds: list[float]) -> np.ndarray:
    """Return the seconds of micro-batches: between those that were tried by straight lines, beyond them by the line through all."""
    if len(tokens) == 1:
        return padded_M / tokens[0] * seconds[0]
    slope, base = np.polyfit(tokens, seconds, 1)
    slope = max(float(slope), 0.0)
    base = max(float(np.mean(seconds) - slope * np.mean(tokens)), 0.0)
    return base + slope * padded_M


def _forward_tokens(recipe: Recipe, prepared: Prepared, steps: Steps) -> float:
    """Return the tokens of forward passes without a backward pass, over the whole run."""
    lengths = {name: float(split.num_tokens_N.sum()) for name, split in prepared.splits.items()}
    mean = lengths["train"] / len(prepared.splits["train"])
    held_out = sum(tokens for name, tokens in lengths.items() if name != "train")
    times = 2.0 if recipe.evaluate.baseline else 1.0
    tokens = held_out * times
    tokens += mean * min(CENTROID_ROWS, len(prepared.splits["train"])) if recipe.evaluate.baseline and held_out else 0.0
    every = recipe.training.eval_every.steps(
        total_steps=steps.num_steps, steps_per_epoch=steps.steps_per_epoch, samples_per_step=recipe.training.rows_per_step
    )
    return tokens + lengths.get("validation", 0.0) * max(1.0, steps.num_steps / max(every, 1))


def on_hardware(recipe: Recipe, shape: Shape, steps: Steps, kept_bytes: float, machine: Hardware, *, passes: float = 1.0) -> Time:
    """Return the time on a machine of the table: calculated from its peaks, never measured.

    Args:
        recipe: The recipe with every `auto` decided.
        shape: Size of the model.
        steps: The micro-batches of the run.
        kept_bytes: What a micro-batch keeps for its backward pass.
        machine: The machine.
        passes: How often a row goes forward and backward through the model in a step.
    """
    flops = passes * flops_of(shape, steps.padded, float(steps.longest_M.mean())) / machine.flops(recipe.training.precision)
    moved = steps.num_steps * 28.0 * shape.trainable + passes * steps.num_micro * PASSES_OVER_ACTIVATIONS * kept_bytes
    moving = moved / (BANDWIDTH_USED * machine.bandwidth)
    launching = passes * steps.num_micro * (shape.layers or 1) * LAUNCHES_PER_LAYER * LAUNCH_SECONDS
    low, middle, high = (max(flops / used + moving, launching) for used in USED)
    return Time(middle / steps.num_steps, middle, 0.0, 0.0, low, high)
