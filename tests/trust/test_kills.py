"""Item 1: a real training is killed again and again, many times in the middle of a save, and always goes on to the same end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from battered import Battered, made
from forks import zygote
from runs import steps_of, weights_hash
from victims import FINISH, PHASE_NAMES, ROTATE, SAVE, START

from luthier import flow
from luthier.core import files
from luthier.training import checkpoint

BASE = {"training.max_steps": 40, "training.save_every": "1steps", "evaluate.baseline": False}
VALIDATED = {**BASE, "data.split": {"validation": 0.2, "test": 0.2}, "training.eval_every": "4steps"}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": BASE,
    "validation": VALIDATED,
    "accumulation": {**BASE, "training.batch_size": 2, "training.gradient_accumulation_steps": 3},
    "early stopping": {**VALIDATED, "training.early_stopping": {"patience": 9}},
}


@dataclass
class Tally:
    """What the kills met."""

    phases: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    failed: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def kills(self) -> int:
        return self.phases.total()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> dict[str, Path]:
    """Every setting, never killed."""
    runs = {}
    for name, changes in SETTINGS.items():
        folder = made(tmp_path_factory.mktemp("undisturbed"), changes, tiny_model, tiny_csv)
        assert zygote().run("victims:train", [str(folder / "recipe.yaml")], str(folder / "marks"), said=folder / "said.txt") == 0
        runs[name] = folder / "run"
    return runs


def battered_runs(folder: Path, model: Path, rows: Path, dice: random.Random) -> Iterator[tuple[str, Battered]]:
    """Runs without end, one setting after the other."""
    number = 0
    while True:
        name = list(SETTINGS)[number % len(SETTINGS)]
        place = folder / f"{number:03d}"
        place.mkdir()
        yield name, Battered(made(place, SETTINGS[name], model, rows), zygote(), dice)
        number += 1


def batter(battered: Battered, tally: Tally, most: int, window: float) -> None:
    """Kill a run until it is at its end or enough was killed; then let it get to its end."""
    while tally.kills < most:
        phase = battered.kill(window)
        if phase is None:
            return
        tally.phases[phase] += 1
        newest, _ = checkpoint.newest_valid(battered.run / "checkpoints")
        tally.lost += (checkpoint.step_of(newest) if newest else 0) < battered.marks.acknowledged
    battered.finish()


def test_kills_lose_nothing(
    scale: Callable[[int, int], int],
    proof: Callable[..., None],
    undisturbed: dict[str, Path],
    tmp_path: Path,
    tiny_model: Path,
    tiny_csv: Path,
) -> None:
    kills, tally, dice = scale(20, 200), Tally(), random.Random(7)
    for name, battered in battered_runs(tmp_path, tiny_model, tiny_csv, dice):
        batter(battered, tally, kills, window=length_of(undisturbed[name]) / 2)
        tally.runs += 1
        tally.failed += differences(battered.run, undisturbed[name])
        if tally.kills >= kills:
            break
    in_save = (tally.phases[SAVE] + tally.phases[ROTATE]) / tally.kills
    where = ", ".join(f"{tally.phases[phase]} {PHASE_NAMES[phase]}" for phase in sorted(tally.phases))
    assert not tally.failed, tally.failed
    proof(
        item="1",
        promise="SIGKILL of a real training at random times, at least 30 % inside a save",
        asked=f"{kills} of {kills} resume by themselves, 0 acknowledged checkpoints lost, end equal bit for bit",
        reached=f"{tally.kills} of {tally.kills} resumed in {tally.runs} runs, {tally.lost} lost, ends equal, "
        f"{in_save:.0%} inside a save ({where})",
        ok=tally.lost == 0 and in_save >= 0.3 and tally.phases[FINISH] + tally.phases[START] > 0,
    )


def length_of(run: Path) -> float:
    """Seconds from the first step of a run to its last file."""
    first, last = ((run / name).stat().st_mtime for name in ("recipe.yaml", "metrics.json"))
    return last - first


def differences(run: Path, undisturbed: Path) -> list[str]:
    """What differs at the end: weights, log, scores, or the files that are there."""
    found = []
    if weights_hash(run) != weights_hash(undisturbed):
        found.append(f"{run}: other weights")
    if steps_of(run) != steps_of(undisturbed):
        found.append(f"{run}: another log")
    if files.read_json(run / "metrics.json")["scores"] != files.read_json(undisturbed / "metrics.json")["scores"]:
        found.append(f"{run}: other scores")
    names, wanted = (names_in(folder) for folder in (run, undisturbed))
    if names != wanted:
        found.append(f"{run}: left over {sorted(names - wanted)}, missing {sorted(wanted - names)}")
    return found


def names_in(run: Path) -> set[str]:
    """Every file; of checkpoints only what does not belong there, as a kill between the last save and its rotation leaves one more."""
    names = {path.relative_to(run).as_posix() for path in run.rglob("*")}
    return {name for name in names if not name.startswith("checkpoints/step-")}


def test_a_run_without_its_pages_is_not_at_its_end(
    recipe: Callable[..., dict[str, Any]], undisturbed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are written before the report and the card, which read them: a kill in between leaves something to do."""
    run = Path(recipe("run", BASE)["output"])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("luthier.stages.results.finish.write_card", die)
        flow.train(recipe("run", BASE))
    assert (run / "metrics.json").exists() and not (run / "card.md").exists()
    (run / ".metrics.json.1.tmp").write_text("half")
    flow.resume(run)
    assert not differences(run, undisturbed["plain"])


def die(run: object) -> None:
    raise KeyboardInterrupt
