"""Item 6: whatever the scores, and wherever a save or a rotation dies, two checkpoints are left, and the best one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bowls import bowl, loaded_step
from faults import Faults, Killed

from luthier.training import checkpoint
from luthier.training.checkpoint import folders, manifest

MOST_SAVES, MOST_CALLS_OF_A_SAVE = 12, 70
KILL_SHARE = 0.4


@dataclass
class History:
    """A run of saves with scores, some of which die.

    Args:
        root: Folder of the checkpoints.
        dice: Decides scores, distances and deaths.
        keep: How many of the newest stay.
    """

    root: Path
    dice: random.Random
    keep: int
    best_step: int | None = None
    best_score: float = -1.0
    acknowledged: list[int] = field(default_factory=list)
    kills: int = 0

    def play(self, num_saves: int) -> None:
        """Save and rotate, and check after each time; after a kill the run goes on from its newest checkpoint, as a resume does."""
        step = 0
        for _ in range(num_saves):
            step += self.dice.randint(1, 3)
            score = self.dice.random()
            before = self.best_step, self.best_score
            if score > self.best_score:
                self.best_step, self.best_score = step, score
            at = self.dice.randint(1, MOST_CALLS_OF_A_SAVE) if self.dice.random() < KILL_SHARE else 0
            if self._is_killed(step, at) and step not in self.acknowledged:
                self.best_step, self.best_score = before
            step = self.check()

    def _is_killed(self, step: int, at: int) -> bool:
        try:
            with Faults(at, "killed").active():
                checkpoint.save(self.root, bowl(step))
                self.acknowledged.append(step)
                checkpoint.rotate(self.root, keep=self.keep, best=self.best_step)
        except Killed:
            manifest.forget()
            self.kills += 1
            return True
        return False

    def check(self) -> int:
        """Return the step that a resume would go on from."""
        whole = [checkpoint.step_of(folder) for folder in checkpoint.all_checkpoints(self.root) if checkpoint.fault_of(folder) is None]
        assert len(whole) >= min(len(self.acknowledged), 2), f"{len(whole)} are left of {self.acknowledged}"
        assert self.best_step is None or self.best_step in whole or self.best_step not in self.acknowledged, (
            f"the best is gone: {self.best_step}"
        )
        newest = whole[-1] if whole else 0
        assert newest >= max(self.acknowledged, default=0)
        if newest and newest not in self.acknowledged:  # whole, though the save was killed before it could say so
            self.acknowledged.append(newest)
        return newest


def play(folder: Path, number: int) -> History:
    dice = random.Random(number)
    history = History(folder / f"{number:04d}", dice, keep=dice.randint(1, 3))
    history.play(dice.randint(3, MOST_SAVES))
    return history


def test_rotation_leaves_two_and_the_best(scale: Callable[[int, int], int], proof: Callable[..., None], tmp_path: Path) -> None:
    asked = scale(100, 1000)
    histories = [play(tmp_path, number) for number in range(asked)]
    kills, saves = (sum(counts) for counts in zip(*((h.kills, len(h.acknowledged)) for h in histories), strict=True))
    for history in histories[:10]:
        newest, _ = checkpoint.newest_valid(history.root)
        assert newest is None or loaded_step(newest) == checkpoint.step_of(newest)
    proof(
        item="6",
        promise="rotation under random sequences of scores and kills",
        asked=f"{asked} sequences: never fewer than 2 valid checkpoints once 2 exist, the best never deleted",
        reached=f"{asked} of {asked} sequences, {saves} checkpoints, {kills} kills",
        ok=kills > asked,
    )


@pytest.mark.parametrize("fault", ["counts damaged ones", "forgets the best", "keeps one"])
def test_a_worse_rotation_is_found_out(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = checkpoint.rotate

    def rotate(root: Path, *, keep: int, best: int | None) -> None:
        right(root, keep=keep, best=None if fault == "forgets the best" else best)

    monkeypatch.setattr(checkpoint, "rotate", rotate)
    if fault == "keeps one":
        monkeypatch.setattr(folders, "FEWEST", 1)
    if fault == "counts damaged ones":
        monkeypatch.setattr(folders, "is_whole", lambda folder: True)
        with pytest.raises(AssertionError, match="are left"):
            two_damaged_ones_push_out_nothing(tmp_path)
        return
    with pytest.raises(AssertionError, match="the best is gone" if fault == "forgets the best" else "are left"):
        for number in range(100):
            play(tmp_path, number)


def test_damaged_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    two_damaged_ones_push_out_nothing(tmp_path)


def two_damaged_ones_push_out_nothing(root: Path) -> None:
    for step in (1, 2, 3, 4):
        folder = checkpoint.save(root, bowl(step))
        if step > 2:
            damage(folder)
    checkpoint.rotate(root, keep=2, best=None)
    whole = [checkpoint.step_of(folder) for folder in checkpoint.all_checkpoints(root) if checkpoint.fault_of(folder) is None]
    assert whole == [1, 2], f"only {whole} are left"


def damage(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, bowl(step))
    strangers: list[Any] = ["step-00000001 copy", "step-old", "notes"]
    for name in strangers:
        (tmp_path / name).mkdir()
    checkpoint.rotate(tmp_path, keep=2, best=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*strangers, "step-00000002", "step-00000003"])
    newest, complaints = checkpoint.newest_valid(tmp_path)
    assert newest is not None and newest.name == "step-00000003" and not complaints
