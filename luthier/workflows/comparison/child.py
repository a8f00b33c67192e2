"""A training in a process of its own: its time and its memory are its own, and whatever becomes of it stops no other."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from luthier.core import files, yaml
from luthier.core.run_folder import RunFolder
from luthier.workflows.comparison.section import PlannedRun
from luthier.workflows.launch import COMMAND, LAUNCHED, Process, keep_to_cores

MOST_SAID = 600  # letters of an error that stand in the table's notes


class Child:
    """One run of a comparison under way.

    Args:
        run: What is trained.
        place: Which of the runs at a time it is, from 0.
        workers: How many run at a time.
        code: Files with parts of the user's own.
    """

    def __init__(self, run: PlannedRun, place: int, workers: int, code: Sequence[str] = ()) -> None:
        self.run, self.place = run, place
        self.began = time.monotonic()
        self.log = beside(run, ".log")
        recipe = beside(run, ".yaml")
        recipe.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(recipe, yaml.dump(run.settings))
        words = ["train", str(recipe), "--resume", "auto", *(word for path in code for word in ("--code", path))]
        with self.log.open("wb") as said:
            popen = subprocess.Popen(
                [*COMMAND, *words],
                env={**os.environ, LAUNCHED: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        keep_to_cores(popen.pid, place, workers)
        self.process = Process(place, popen)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def error(self) -> str | None:
        """Return what ended it, in its own words; None where it finished."""
        if self.process.code == 0 and RunFolder(self.run.folder).finished:
            return None
        said = self.log.read_text(encoding="utf-8", errors="replace")
        if (self.process.code or 0) < 0:
            return f"killed by signal {-(self.process.code or 0)}: look whether the machine ran out of memory (dmesg)"
        lines = [line for line in said.splitlines() if line.strip()]
        from_error = next((place for place, line in enumerate(lines) if line.startswith("error:")), max(len(lines) - 1, 0))
        words = re.sub(r"\s+", " ", " ".join(lines[from_error:])).removeprefix("error:").strip()
        return words[:MOST_SAID] or f"ended with code {self.process.code} and said nothing"


def beside(run: PlannedRun, suffix: str) -> Path:
    """Return the file of a run that stands beside its folder: its recipe, or what it said."""
    return run.folder.with_name(run.folder.name + suffix)
