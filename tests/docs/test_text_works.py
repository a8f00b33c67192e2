"""What bench/text_tasks.py trains and writes: scores that the tasks have, and a table of means over seeds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import text_tasks  # noqa: E402
from texts.works import WORKS  # noqa: E402

from luthier.metrics.intervals import score_keys  # noqa: E402
from luthier.recipe import resolve  # noqa: E402
from luthier.tasks import tasks  # noqa: E402


@pytest.mark.parametrize("name", WORKS)
def test_the_scores_of_a_work_are_those_of_its_task(name: str) -> None:
    work = WORKS[name]
    task = tasks.get(work.task)
    assert set(work.scores) <= (set(task.own_scores) or set(score_keys())), sorted(task.own_scores)
    assert work.preset is None or resolve(work.preset).task.registered_name == work.task


def test_the_table_has_means_over_the_seeds_and_the_command() -> None:
    runs = [
        {"seed": seed, "scores": {"f1": {"value": value, "low": value - 0.1, "high": value + 0.1}}} for seed, value in enumerate((0.8, 0.9))
    ]
    facts = {"title": "names", "asked": "", "command": "luthier train names", "runs": runs, "measured": "today"}
    said = text_tasks.table({"names": facts})
    assert "| names | - | f1 0.850 (0.750 to 0.950) | 2 | today |" in said and "- names: `luthier train names`" in said


def test_a_command_is_shown_without_the_folders_of_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTHIER_DATA", "/data")
    said = text_tasks.shown(["--task", "translation", "data.train=/data/a.gz", f"data.test={tmp_path}/b", "model.scratch={a: b}"], tmp_path)
    assert said == "luthier train --task translation data.train=$D/a.gz data.test=FOLDER/b 'model.scratch={a: b}'"
