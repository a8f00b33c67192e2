"""Models and run folders that cannot be used are refused, with what to change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from refusals import refused, with_data

Luthier = Callable[..., Any]
SUBPROCESS_SECONDS = 60


def test_a_model_folder_without_safetensors(luthier: Luthier, flags: list[str], tiny_model: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (old / file.name).write_bytes(file.read_bytes())
    (old / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    said = luthier("train", *flags, "--model", old)
    refused(said, f"{old} has no .safetensors file", "pytorch_model.bin", "can run code", "where: model.path", "save_pretrained")


def test_a_run_that_is_not_there(luthier: Luthier) -> None:
    started = time.monotonic()
    refused(luthier("predict", "runs/none-001", "a text"), "no run folder and no model at 'runs/none-001'", "luthier runs")
    refused(luthier("evaluate", "runs/none-001"), "no run folder at 'runs/none-001'", "luthier runs")
    refused(luthier("train", "--resume", "runs/none-001"), "no run folder at 'runs/none-001'", "luthier runs")
    refused(luthier("predict", "none-001", "a text"), "none-001", "HF_HUB_OFFLINE is set")
    refused(luthier("runs", "none"), "no folder 'none' with runs", "luthier train")
    assert time.monotonic() - started < 10


def test_a_missing_run_waits_for_no_network(luthier: Luthier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is not switched off, but nothing answers there."""
    target = "none-001"
    environment = {name: value for name, value in os.environ.items() if not name.upper().endswith(("_PROXY", "_OFFLINE"))}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    command = [sys.executable, "-m", "luthier", "predict", target, "a text"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=SUBPROCESS_SECONDS)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert f"no folder '{target}' here" in ended.stderr and "no hub can be reached" in ended.stderr
    assert time.monotonic() - started < 30
    monkeypatch.delenv("HF_HUB_OFFLINE")
    refused(luthier("predict", "runs/none-001", "a text"), "no run folder and no model at 'runs/none-001'")


def unfinished(flags: list[str], *changes: str) -> Path:
    """A run that was killed after two of its three steps, checkpoints kept."""
    from luthier.cli.arguments import SHORT_FLAGS, split_changes
    from luthier.flow import Training

    words = [word for word in flags if "=" in word]
    given = [(SHORT_FLAGS[flag][0], value) for flag, value in zip(flags, flags[1:], strict=False) if flag in SHORT_FLAGS]
    training = Training.begin(None, changes=[*given, *split_changes([*words, "training.save_every=1step", *changes])[1]])
    ticks = iter(training)
    while next(ticks).step < 2:
        pass
    ticks.close()  # type: ignore[attr-defined]
    return training.run.path


def test_a_run_folder_half_written(luthier: Luthier, flags: list[str]) -> None:
    run = unfinished(flags)
    for verb in (["predict", run, "a text"], ["evaluate", run]):
        refused(luthier(*verb), f"'{run}' is half written: it has no model/", f"luthier train --resume {run}")
    resumed = luthier("train", "--resume", run, "--json")
    assert resumed.code == 0 and resumed.object["resumed_from_step"] in (1, 2) and resumed.object["steps"] == 3
    assert luthier("evaluate", run).code == 0 and luthier("predict", run, "a text").code == 0


def test_a_run_that_was_killed_between_model_and_scores(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    assert luthier("train", *flags).code == 0
    run = tmp_path / "run"
    before = json.loads((run / "metrics.json").read_text())
    for name in ("metrics.json", "report.html", "card.md"):
        (run / name).unlink()
    refused(luthier("evaluate", run), "is half written: it has no metrics.json", f"luthier train --resume {run}")
    resumed = luthier("train", "--resume", run, "--json")
    assert resumed.code == 0 and resumed.object["resumed_from_step"] == 3
    assert resumed.object["scores"] == before["scores"] and (run / "report.html").is_file()


@pytest.mark.parametrize("verb", [["evaluate"], ["train", "--resume"]])
def test_a_folder_that_is_no_run(luthier: Luthier, tmp_path: Path, verb: list[str]) -> None:
    refused(luthier(*verb, tmp_path), f"'{tmp_path}' is not a run folder: it has no recipe.yaml", "luthier runs")
    refused(luthier("predict", tmp_path, "a text"), str(tmp_path), "to fix:")


def test_resume_onto_changed_data(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(60))
    run = unfinished(with_data(flags, rows))
    tiny.write_rows(rows, tiny.tiny_rows(60, seed=1))
    said = luthier("train", "--resume", run)
    refused(said, "made with another data", "mix two runs", "put back what changed", "luthier train")


def test_resume_onto_another_base_model(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    model = tiny.make_tiny_model(tmp_path / "model")
    run = unfinished(flags, f"model.path={model}")
    tiny.make_tiny_model(model, seed=1)
    refused(luthier("train", "--resume", run), "made with another base model", "put back what changed")
