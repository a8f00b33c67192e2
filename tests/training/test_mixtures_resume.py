"""A run of tasks of different kinds that was stopped ends in the same weights, bit for bit, as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import steps_of, train_until, weights_hash
from tiny_mixtures import CLASSES, mixture, name_of

from luthier import flow
from luthier.core import files

NAMES = (CLASSES, "token-classification", "sentence-similarity", "fill-mask", "intent-and-slots")
CASES: dict[str, dict[str, Any]] = {
    "pcgrad": {"mixing": {"sampling": "round-robin"}, "training.step_rule": "pcgrad", "training.gradient_accumulation_steps": 3},
    "gradnorm": {"mixing": {"sampling": "round-robin", "weights": "gradnorm"}, "training.gradient_accumulation_steps": 3},
    "uncertainty": {"mixing": {"sampling": "equal", "weights": "uncertainty"}},
    "an adapter": {"adapter": {"type": "lora", "r": 4}},
    "averages": {"training.ema": 0.9, "training.early_stopping": {"patience": 9}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(case: str, tiny_model: Path, tmp_path: Path) -> None:
    changes = {
        "evaluate.baseline": False,
        "training.max_steps": 9,
        "training.save_every": "3steps",
        "training.eval_every": "5steps",
        **CASES[case],
    }
    whole = flow.train(mixture(tiny_model, tmp_path, NAMES, changes, "whole")).path
    stopped = train_until(mixture(tiny_model, tmp_path, NAMES, changes, "stopped"), 7)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(whole)
    ticks = [line for line in files.read_json_lines(whole / "events.jsonl") if "loss" in line]
    assert len(ticks) == 9 and all(np.isfinite(tick["loss"]) and not tick.get("skipped") for tick in ticks)
    for name in map(name_of, NAMES):
        assert weights_hash(stopped / "tasks" / name) == weights_hash(whole / "tasks" / name)
    assert not list((whole / "model").rglob("adapter*"))
