"""What one optimiser step reports: progress bar, log, trackers and tests read the same stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One finished optimiser step.

    Args:
        step: Number of finished steps, from 1.
        total_steps: Steps the run will take.
        epoch: Passes over the training rows so far, a fraction within an epoch.
        samples: Rows seen since the start of the run.
        tokens: Real (non-padding) tokens seen since the start of the run.
        loss: Weighted mean of the loss over the step; not a number where the step was skipped.
        losses: Each term of the loss by name.
        grad_norm: Norm of the gradient before clipping.
        learning_rate: Rate of the first parameter group.
        seconds: Time of this step, evaluation and saving left out.
        tokens_per_second: Real tokens of this step over its seconds.
        memory_bytes: Resident memory now.
        micro_batch: Rows that go through the model at once, where memory made them fewer than planned.
        scores: Scores by split and metric, where this step was followed by an evaluation.
        saved: Name of the checkpoint written after this step.
        skipped: Why the step was not applied (a non-finite loss or gradient).
        best: Whether the scores are the best so far.
    """

    step: int
    total_steps: int
    epoch: float
    samples: int
    tokens: int
    loss: float
    losses: dict[str, float] = field(default_factory=dict)
    grad_norm: float
    learning_rate: float
    seconds: float
    tokens_per_second: float
    memory_bytes: int
    micro_batch: int | None = None
    scores: dict[str, dict[str, float]] | None = None
    saved: str | None = None
    skipped: str | None = None
    best: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that say something, for `events.jsonl`."""
        return {key: value for key, value in vars(self).items() if value not in (None, False, {})}
