"""Item 4: twenty kills in three epochs, and within each epoch every row is trained on once, in the order of the undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battered import Battered, has_ended, made, wait_until
from forks import zygote

from luthier.core import files
from luthier.training import checkpoint

EPOCHS, ROWS, STEPS = 3, 90, 135
CHANGES = {
    "training.epochs": EPOCHS,
    "training.max_steps": None,
    "training.batch_size": 2,
    "training.save_every": "4steps",
    "training.ledger": True,
    "evaluate.baseline": False,
}


def ledger_of(run: Path) -> list[dict[str, Any]]:
    path = run / "ledger.jsonl"
    return files.read_json_lines(path) if path.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> Path:
    folder = made(tmp_path_factory.mktemp("ledger"), CHANGES, tiny_model, tiny_csv)
    assert zygote().run("victims:train", [str(folder / "recipe.yaml")], str(folder / "marks"), said=folder / "said.txt") == 0
    return folder / "run"


def faults_of(ledger: list[dict[str, Any]]) -> list[str]:
    """Rows that were seen twice or missed within an epoch, and steps that are not there once."""
    found = []
    if [line["step"] for line in ledger] != list(range(1, STEPS + 1)):
        found.append(f"steps {[line['step'] for line in ledger]}")
    everybody = {row for line in ledger for row in line["ids"]}
    for epoch in range(EPOCHS):
        seen = Counter(row for line in ledger if line["epoch"] == epoch for row in line["ids"])
        twice, missed = [row for row, count in seen.items() if count > 1], everybody - seen.keys()
        if twice or missed or seen.total() != ROWS:
            found.append(f"epoch {epoch}: {len(twice)} twice, {len(missed)} missed, {seen.total()} in all")
    return found


def kill_after(battered: Battered, step: int, pause: float) -> int:
    """Kill the run once a step is in the ledger; returns how many finished steps the resume has to do again."""
    pid = battered.start()
    wait_until(lambda: len(ledger_of(battered.run)) >= step or has_ended(pid))
    time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    assert battered.children.wait(pid) == -signal.SIGKILL, battered.said.read_text()[-2000:]
    newest, _ = checkpoint.newest_valid(battered.run / "checkpoints")
    return len(ledger_of(battered.run)) - (checkpoint.step_of(newest) if newest else 0)


def test_every_row_is_seen_once_in_an_epoch(
    scale: Callable[[int, int], int], proof: Callable[..., None], undisturbed: Path, tmp_path: Path, tiny_model: Path, tiny_csv: Path
) -> None:
    kills, dice = scale(4, 20), random.Random(11)
    battered = Battered(made(tmp_path, CHANGES, tiny_model, tiny_csv), zygote(), dice)
    targets = sorted(dice.sample(range(1, STEPS - 8), kills))
    again = [kill_after(battered, step, dice.uniform(0, 0.01)) for step in targets]
    battered.finish()
    found = faults_of(ledger_of(battered.run))
    same = (battered.run / "ledger.jsonl").read_bytes() == (undisturbed / "ledger.jsonl").read_bytes()
    assert sum(again) > 0, "no step was done twice: the kills prove nothing"
    assert not found, found
    proof(
        item="4",
        promise=f"no row seen twice or missed within an epoch, {EPOCHS} epochs",
        asked=f"{kills} SIGKILLs, 0 twice, 0 missed, order of the undisturbed run",
        reached=f"{kills} SIGKILLs, 0 twice, 0 missed, {sum(again)} steps done again, the ledger equal byte for byte",
        ok=same,
    )


@pytest.mark.parametrize("damage", ["a step twice", "a step missing", "a row twice"])
def test_a_wrong_ledger_is_found_out(damage: str, undisturbed: Path) -> None:
    ledger = ledger_of(undisturbed)
    assert not faults_of(ledger)
    if damage == "a step twice":
        ledger.insert(50, ledger[50])
    elif damage == "a step missing":
        del ledger[50]
    else:
        ledger[50]["ids"] = ledger[49]["ids"]
    assert faults_of(ledger)
