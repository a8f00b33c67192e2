"""What the tests of adapters lay out, stop and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier import flow
from luthier.core import files
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out


def bench_of(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def train_until(recipe: dict[str, Any], step: int) -> Path:
    """Train, and drop everything right after a step, as a killed process would; returns the run folder."""
    training = flow.Training.begin(recipe)
    ticks = iter(training)
    while next(ticks).step < step:
        pass
    ticks.close()  # type: ignore[attr-defined]
    return training.run.path


def steps_of(run: Path) -> list[dict[str, Any]]:
    """Step, loss and gradient norm of every step of a run."""
    lines = [line for line in files.read_json_lines(run / "events.jsonl") if "event" not in line]
    return [{name: line[name] for name in ("step", "loss", "grad_norm")} for line in lines]
