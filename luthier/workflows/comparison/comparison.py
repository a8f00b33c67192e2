"""A comparison under way: run after run, or some at a time, until all are done or the time is; started again it goes on."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core import files, yaml
from luthier.core.errors import ConfigError, Fault, Interrupted
from luthier.core.run_folder import RunFolder
from luthier.recipe import Changes
from luthier.workflows.comparison.child import Child, beside
from luthier.workflows.comparison.findings import findings_of, write_table
from luthier.workflows.comparison.section import ComparisonPlan, PlannedRun, differing_keys, read_comparison
from luthier.workflows.launch import SECONDS_BETWEEN_LOOKS, Process, signals_to

log = logging.getLogger("luthier")
BOOK = "runs.json"


class News(NamedTuple):
    """That a run begins, or how it ended.

    Args:
        run: Which one.
        state: `begins`, `finished`, `failed` or `stopped`.
        error: What a failed one said.
    """

    run: PlannedRun
    state: str
    error: str | None = None


class Comparison:
    """A comparison: iterate over it for news of its runs.

    Args:
        plan: What is compared, checked.
        code: Files with parts of the user's own, for the processes of the runs.
    """

    def __init__(self, plan: ComparisonPlan, code: Sequence[str] = ()) -> None:
        self.plan, self._code = plan, tuple(code)
        self._lock = RunFolder(plan.folder)
        self._live: list[Child] = []
        self._processes: list[Process] = []
        self.book: dict[str, dict[str, Any]] = files.read_json(self._book) if self._book.is_file() else {}

    @classmethod
    def begin(
        cls, source: str | Path | Mapping[str, Any], changes: Changes = (), *, code: Sequence[str] = (), **overrides: Any
    ) -> Comparison:
        """Check a sweep file with variants and open its folder; finished runs in it are not run again.

        Args:
            source: A sweep file, the name of a shipped one, or what would stand in it.
            changes: Changes to all of its recipes, by dotted key.
            code: Files with parts of the user's own.
            overrides: Keys of the file that are said elsewhere, such as `seeds=[0]`; of `recipes` and `variants` the names that are taken.

        Raises:
            ConfigError: if anything in it is wrong, or the folder holds something else.
        """
        plan = read_comparison(source, {key: value for key, value in overrides.items() if value is not None}, changes)
        begun = plan.folder / "runs"
        if plan.folder.exists() and not begun.is_dir() and (not plan.folder.is_dir() or any(plan.folder.iterdir())):
            raise ConfigError([Fault("output", f"'{plan.folder}' exists and holds no comparison", "name another folder with --output")])
        _refuse_other_runs(plan)
        return cls(plan, code)

    @property
    def left(self) -> list[PlannedRun]:
        """The runs that are not finished."""
        return [run for run in self.plan.runs if not RunFolder(run.folder).complete]

    def __iter__(self) -> Iterator[News]:
        """Train what is left, and yield what becomes of each run; the table is written after each.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after the runs under way were saved.
        """
        (self.plan.folder / "runs").mkdir(parents=True, exist_ok=True)
        self._lock.take()
        try:
            with signals_to(self._processes) as received:
                yield from self._through(self.left, received)
        finally:
            for child in self._live:
                child.process.popen.kill()
            self._lock.leave()
        if received:
            fix = "go on with the same command: what is done is not done again"
            raise Interrupted(f"stopped; the table so far is in {self.plan.folder}", exit_code=128 + received[0], fix=fix)

    def findings(self) -> dict[str, Any]:
        """Return the table as the object that `luthier sweep --json` prints, after writing it into the sweep's folder."""
        found = findings_of(self.plan, self.book)
        write_table(self.plan.folder, found)
        return found

    def _through(self, left: list[PlannedRun], received: list[int]) -> Iterator[News]:
        waiting, workers, told = list(left), self.plan.file.workers, False
        while waiting or self._live:
            out_of_time = self._seconds_left() <= 0
            if out_of_time or received:
                waiting = []
            if out_of_time and not received and not told:
                told = True
                for child in self._live:
                    child.process.popen.terminate()  # it saves and ends
            while waiting and len(self._live) < workers:
                run = waiting.pop(0)
                self._start(run)
                yield News(run, "begins")
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for child in [child for child in self._live if child.process.code is not None]:
                yield self._ended(child, stopped=out_of_time or bool(received))

    def _start(self, run: PlannedRun) -> None:
        taken = {child.place for child in self._live}
        place = next(place for place in range(self.plan.file.workers) if place not in taken)
        child = Child(run, place, self.plan.file.workers, self._code)
        self._live.append(child)
        self._processes.append(child.process)

    def _ended(self, child: Child, *, stopped: bool) -> News:
        """Write down how a run ended."""
        self._live.remove(child)
        self._processes.remove(child.process)
        error = child.error()
        state = "finished" if error is None else "stopped" if stopped and child.process.code != 2 else "failed"
        before = self.book.get(child.run.name, {}).get("seconds", 0.0)
        said = error if state == "failed" else None
        self.book[child.run.name] = {"state": state, "seconds": round(before + child.seconds, 1), "error": said}
        files.write_json(self._book, self.book)
        if state == "finished" and not self.plan.file.keep_checkpoints:
            shutil.rmtree(RunFolder(child.run.folder).checkpoints, ignore_errors=True)
        self.findings()
        return News(child.run, state, said)

    def _seconds_left(self) -> float:
        """Return the seconds that are left: with several workers, all of them spend the time at once."""
        hours = self.plan.file.hours
        spent = sum(one["seconds"] for one in self.book.values()) + sum(child.seconds for child in self._live)
        return math.inf if hours is None else hours * 3600 - spent / self.plan.file.workers

    @property
    def _book(self) -> Path:
        return self.plan.folder / BOOK


def compare_variants(
    source: str | Path | Mapping[str, Any], changes: Changes = (), *, code: Sequence[str] = (), **overrides: Any
) -> dict[str, Any]:
    """Do a comparison to its end and return its table; the arguments are those of `Comparison.begin`."""
    begun = Comparison.begin(source, changes, code=code, **overrides)
    for _ in begun:
        pass
    return begun.findings()


def _refuse_other_runs(plan: ComparisonPlan) -> None:
    """Refuse a folder in which a run of the plan was begun with another recipe: the table would mix the two."""
    faults = []
    for run in plan.runs:
        stored = beside(run, ".yaml")
        keys = list(differing_keys(yaml.load_file(stored), run.settings)) if stored.is_file() else []
        if keys:
            what = f"was begun in '{plan.folder}' with another {', '.join(keys[:5])}"
            faults.append(Fault(run.name, what, "name another folder with --output, or the same changes"))
    if faults:
        raise ConfigError(faults[:5])
