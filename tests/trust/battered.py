"""A run that is killed and resumed, again and again, until it gets to its end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
from forks import Zygote
from victims import FINISH, SAVE, START, Marks

from luthier.core import yaml

EARLY_SHARE = 0.15  # of the kills are timed from the fork, so that reading and loading get theirs
AIMED_SHARE = 0.35  # from the start of a save; the rest from the first step
SECONDS_BETWEEN_LOOKS = 0.0002


@dataclass
class Battered:
    """A run that is killed and resumed until it gets to its end.

    Args:
        folder: Holds the recipe, the run, the marks and what was said.
        children: Forks the victims.
        dice: When they are killed.
    """

    folder: Path
    children: Zygote
    dice: random.Random

    def __post_init__(self) -> None:
        self.marks = Marks(self.folder / "marks")

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def said(self) -> Path:
        return self.folder / "said.txt"

    def start(self) -> int:
        """Fork `luthier train --resume`, or the first time `luthier train`, and wait until there is something to lose."""
        self.marks.phase = START
        arguments = ["--resume", str(self.run)] if self.run.exists() else [str(self.folder / "recipe.yaml")]
        pid = self.children.start("victims:train", arguments, str(self.folder / "marks"), said=self.said)
        wait_until(self.run.exists)
        return pid

    def kill(self, window: float) -> int | None:
        """Start a victim and kill it; returns where it was, or None if it was at its end before."""
        pid, way = self.start(), self.dice.random()
        if way < AIMED_SHARE:
            wait_until(lambda: self.marks.phase in (SAVE, FINISH) or has_ended(pid))
            window = self.marks.save_seconds or window
        elif way < 1 - EARLY_SHARE:
            wait_until(lambda: self.marks.phase != START or has_ended(pid))
        time.sleep(self.dice.uniform(0, window))
        os.kill(pid, signal.SIGKILL)
        code = self.children.wait(pid)
        if code == -signal.SIGKILL:
            return self.marks.phase
        assert code == 0, self.said.read_text()[-3000:]
        return None

    def finish(self) -> None:
        """Let it get to its end."""
        code = self.children.wait(self.start())
        assert code == 0, self.said.read_text()[-3000:]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(SECONDS_BETWEEN_LOOKS)


def has_ended(pid: int) -> bool:
    """Whether a child of the zygote has ended; it stays a zombie until it is waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def made(folder: Path, changes: dict[str, Any], model: Path, rows: Path) -> Path:
    (folder / "recipe.yaml").write_text(yaml.dump(tiny.tiny_recipe(model, rows, folder / "run", changes)), encoding="utf-8")
    return folder
