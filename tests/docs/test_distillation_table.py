"""What bench/distillation.py makes of its readings."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import distillation  # noqa: E402


def test_what_is_kept_is_a_share_of_the_teachers_right_answers() -> None:
    teacher = np.array([True] * 80 + [False] * 20)
    students = [np.array([True] * 72 + [False] * 28), np.array([True] * 76 + [False] * 24)]
    found = distillation.kept(students, teacher)
    assert found["value"] == pytest.approx(0.925) and found["low"] < 0.925 < found["high"] <= 1
    assert distillation.kept([teacher], teacher) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_table_names_every_way_with_its_interval() -> None:
    one = {"accuracy": {"value": 0.9, "low": 0.88, "high": 0.92}, "steps": 9, "training_seconds": 1.0}
    student = {
        "runs": [{"seed": 0, **one}],
        "kept": {"value": 0.975, "low": 0.96, "high": 0.99},
        "speed": {"median": 1.9, "min": 1.7, "max": 2.0, "seconds": 1},
    }
    facts = {
        "layers": 3,
        "keep": [0, 2, 4],
        "rows": "all",
        "epochs": "auto",
        "seeds": 1,
        "teacher": one,
        "hardware": "a machine",
        "measured": "today",
    }
    text = distillation.table({"sst2": {**facts, "students": {"answers": student}}})
    assert "| answers | 0.9000 | 97.5% (96.0% to 99.0%) | 1.90 (1.70 to 2.00) |" in text
    assert "0.9000 (0.8800 to 0.9200)" in text and "layers 0, 2, 4" in text and "97% of its accuracy at 1.8 times" in text


def test_the_guide_has_a_place_for_the_table() -> None:
    page = distillation.PAGE.read_text(encoding="utf-8")
    assert page.count(distillation.START) == page.count(distillation.END) == 1
