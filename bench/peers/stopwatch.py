"""What every Trainer here is timed with: steps alone, from the first one's loading of rows to the last one's update."""

from __future__ import annotations

import json
import time
from typing import Any

from transformers import Trainer, TrainerCallback

WARM_UP = 3
LAST = 2  # of what is logged, every five steps


class Stopwatch(TrainerCallback):
    """Notes when the training began and when each step ended, and what the loss was."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.marks = [time.perf_counter()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.marks.append(time.perf_counter())

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def counting() -> list[tuple[int, int]]:
    """Have every Trainer note the rows and the real tokens of each step; returns the list that it notes them in."""
    counts: list[tuple[int, int]] = []
    step = Trainer.training_step

    def counted(self: Trainer, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        counts.append((len(ids), int(ids.numel() if mask is None else mask.sum())))
        return step(self, model, inputs, *rest, **named)

    Trainer.training_step = counted
    return counts


def report(watch: Stopwatch, counts: list[tuple[int, int]], *, unit: str, short: bool, **more: Any) -> None:
    """Print the reading: rows or tokens per second; of a short run the first three steps are left out.

    Args:
        watch: What was noted of the time.
        counts: Rows and tokens of each step.
        unit: rows or tokens.
        short: Whether the run was cut short.
        more: What else the reading says.
    """
    skip = WARM_UP if short else 0
    seconds = watch.marks[-1] - watch.marks[skip]
    done = sum(count[unit == "tokens"] for count in counts[skip : len(watch.marks) - 1])
    loss = sum(watch.losses[-LAST:]) / len(watch.losses[-LAST:]) if unit == "tokens" and watch.losses else None
    print(json.dumps({"value": done / seconds, "seconds": seconds, "steps": len(watch.marks) - 1, "loss": loss} | more), flush=True)
