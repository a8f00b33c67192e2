"""The playbooks work: their code is written to files as they say, and used with --code as they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "docs" / "playbooks"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY_SETTINGS = ["training.max_steps=2", "training.threads=1", "training.precision=fp32", "evaluate.resamples=100", "track.trackers=[]"]


def write_blocks(page: str, folder: Path) -> list[str]:
    """Write every block of a page that begins with the name of a file; returns the names."""
    found = BLOCK.findall((PLAYBOOKS / page).read_text(encoding="utf-8"))
    for name, text in found:
        (folder / name).write_text(text, encoding="utf-8")
    return [name for name, _ in found]


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, on the package of this checkout."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def train(folder: Path, model: Path, recipe: str, code: str) -> dict[str, Any]:
    """Train two steps with a recipe and the code of a page, and return the object that --json prints."""
    settings = [f"model.path={model}", *TINY_SETTINGS]
    done = run_python(folder, "-m", "luthier", "train", recipe, *settings, "--code", code, "--output", "run", "--json")
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


@pytest.fixture
def rows(tmp_path: Path) -> list[tuple[str, str]]:
    """Rows in tickets.csv, and the same with stars for labels in stars.csv."""
    found = tiny.tiny_rows(60)
    stars = {label: str(number) for number, label in enumerate(sorted({label for _, label in found}), 1)}
    tiny.write_rows(tmp_path / "tickets.csv", found)
    tiny.write_rows(tmp_path / "stars.csv", [(text, stars[label]) for text, label in found])
    return found


def test_add_a_loss(tmp_path: Path, tiny_model: Path, rows: list[tuple[str, str]]) -> None:
    assert write_blocks("add-a-loss.md", tmp_path) == ["poly.py", "check_poly.py", "tickets.yaml"]
    run_python(tmp_path, "check_poly.py")
    metrics = train(tmp_path, tiny_model, "tickets.yaml", "poly.py")
    assert metrics["steps"] == 2
    recipe = (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
    assert "type: poly" in recipe and "epsilon: 2.0" in recipe


def test_add_an_augmentation(tmp_path: Path, tiny_model: Path, rows: list[tuple[str, str]]) -> None:
    assert write_blocks("add-an-augmentation.md", tmp_path) == ["span_dropout.py", "check_span_dropout.py", "tickets.yaml"]
    run_python(tmp_path, "check_span_dropout.py")
    assert train(tmp_path, tiny_model, "tickets.yaml", "span_dropout.py")["steps"] == 2
    recipe = (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
    assert "type: span-dropout" in recipe and "longest: 3" in recipe and "type: word-swap" in recipe
    done = run_python(tmp_path, "-m", "luthier", "predict", "run", "where is my parcel")
    assert json.loads(done.stdout)["label"] in {label for _, label in rows}, "an answer needs no augmentation, so no --code"


def test_add_a_task(tmp_path: Path, tiny_model: Path, rows: list[tuple[str, str]]) -> None:
    assert write_blocks("add-a-task.md", tmp_path) == ["ordinal.py", "stars.yaml"]
    metrics = train(tmp_path, tiny_model, "stars.yaml", "ordinal.py")
    assert metrics["task"] == "ordinal" and metrics["steps"] == 2
    assert json.loads((tmp_path / "run" / "model" / "luthier.json").read_text(encoding="utf-8"))["task"] == "ordinal"
    first = json.loads((tmp_path / "run" / "reference.jsonl").read_text(encoding="utf-8").splitlines()[0])
    done = run_python(tmp_path, "-m", "luthier", "predict", "run", first["text"], "--code", "ordinal.py")
    answer = json.loads(done.stdout)
    assert sorted(answer["probabilities"]) == ["1", "2", "3"] and sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)
