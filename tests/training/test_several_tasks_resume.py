"""A run of several tasks that was stopped ends in the same weights, bit for bit, as one that was not; a seed decides all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import steps_of, train_until, weights_hash
from tiny_tasks import two_tasks

from luthier import flow
from luthier.core import files

EVERY_3 = {"training.max_steps": 10, "training.save_every": "3steps", "training.eval_every": "5steps", "evaluate.baseline": False}
CASES: dict[str, dict[str, Any]] = {
    "proportional": {"training.ema": 0.9},
    "temperature, several in a step": {
        "mixing": {"sampling": "temperature", "temperature": 5},
        "training.batch_size": 4,
        "training.gradient_accumulation_steps": 3,
    },
    "round-robin with uncertainty": {"mixing": {"sampling": "round_robin", "weights": "uncertainty"}},
    "an adapter": {"adapter": {"type": "lora", "r": 4}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(case: str, tiny_model: Path, tmp_path: Path) -> None:
    changes = {**EVERY_3, **CASES[case]}
    whole = flow.train(two_tasks(tiny_model, tmp_path, changes, "whole")).path
    stopped = train_until(two_tasks(tiny_model, tmp_path, changes, "stopped"), 7)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(whole)
    for name in ("subject", "money"):
        assert weights_hash(stopped / "tasks" / name) == weights_hash(whole / "tasks" / name)
    assert files.read_json(stopped / "metrics.json")["tasks"] == files.read_json(whole / "metrics.json")["tasks"]


def test_another_seed_is_another_run(tiny_model: Path, tmp_path: Path) -> None:
    runs = [
        flow.train(two_tasks(tiny_model, tmp_path, {**EVERY_3, "training.max_steps": 4, "training.seed": seed}, f"seed-{number}")).path
        for number, seed in enumerate((3, 3, 4))
    ]
    first, again, other = (weights_hash(run / "tasks" / "money") for run in runs)
    assert first == again != other
