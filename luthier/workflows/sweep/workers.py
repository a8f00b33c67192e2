"""A sweep in several processes of this machine: each asks the same storage for the next trial, and has its share of the cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import Interrupted, RunStopped
from luthier.core.run_folder import RunFolder
from luthier.workflows.launch import LAUNCHED, SECONDS_TO_FOLLOW, Process, keep_to_cores, signals_to
from luthier.workflows.sweep.section import SweepPlan
from luthier.workflows.sweep.study import left_behind, open_study
from luthier.workflows.sweep.sweep import findings_and_best
from luthier.workflows.sweep.trial import facts_of

LOGS = "workers"
SECONDS_BETWEEN_TRIALS = 0.5
STOPPED = (-15, 143)  # exit codes of a process that was told to end because of another
KEYS = ("trials", "hours", "workers", "keep_checkpoints")
WORKER = (sys.executable, "-m", "luthier.workflows.sweep.worker")


class Workers:
    """A sweep under way in several processes: iterate over it for the trials that ended, as they stand in `sweep.json`.

    Args:
        plan: What is tried, checked.
        code: Files with parts of the user's own.
    """

    def __init__(self, plan: SweepPlan, code: Sequence[str] = ()) -> None:
        self.plan, self._code = plan, tuple(code)
        self._lock = RunFolder(plan.folder)
        self._study = open_study(plan)
        self._processes: list[Process] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Start the processes and yield each trial as it ends.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after the trials under way were saved.
            RunStopped: if a process stopped, and what it said.
        """
        self._lock.take()
        try:
            with signals_to(self._processes) as received:
                yield from self._watch()
            self._raise_of(received)
        finally:
            for process in self._processes:
                process.popen.kill()
                process.popen.wait()
            self._lock.leave()

    def findings(self) -> dict[str, Any]:
        """Return what was found, after writing it into the sweep's folder: the object that `luthier sweep --json` prints."""
        return findings_and_best(self.plan, self._study)

    def _watch(self) -> Iterator[dict[str, Any]]:
        known = {trial.number for trial in self._study.trials if trial.state.is_finished()}
        begun = [trial.number for trial in left_behind(self._study)]
        for place in range(self.plan.file.workers):
            self._start(place, begun[place :: self.plan.file.workers])
        ended_badly = float("inf")
        alive = True
        while alive:
            alive = any(process.code is None for process in self._processes)
            time.sleep(SECONDS_BETWEEN_TRIALS)
            for trial in self._study.trials:
                if trial.state.is_finished() and trial.number not in known:
                    known.add(trial.number)
                    yield facts_of(self.plan, trial)
            if any(process.code for process in self._processes):
                ended_badly = min(ended_badly, time.monotonic())
            for process in self._processes if time.monotonic() > ended_badly + SECONDS_TO_FOLLOW else ():
                process.popen.terminate()

    def _start(self, place: int, begun: list[int]) -> None:
        workers = self.plan.file.workers
        keys = {key: value for key, value in self.plan.file.model_dump(mode="json", include=set(KEYS)).items() if value is not None}
        orders = {"keys": keys, "code": self._code, "share": {"place": place, "workers": workers, "begun": begun}}
        log = self._log(place)
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as said:
            popen = subprocess.Popen(
                [*WORKER, str(self.plan.folder), json.dumps(orders)],
                env={**os.environ, LAUNCHED: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        keep_to_cores(popen.pid, place, workers)
        self._processes.append(Process(place, popen))

    def _raise_of(self, received: list[int]) -> None:
        fix = "go on with the same command: what is done is not done again"
        if received:
            raise Interrupted("stopped; the trials under way are saved", exit_code=128 + received[0], fix=fix)
        failed = sorted((process for process in self._processes if process.code), key=lambda process: process.code in STOPPED)
        if failed:
            log, code = self._log(failed[0].rank), failed[0].popen.returncode
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            first = next((place for place, line in enumerate(lines) if line.startswith("error:")), max(len(lines) - 1, 0))
            said = f"killed by signal {-code}" if code < 0 else "\n".join(lines[first:]).removeprefix("error: ")
            raise RunStopped(f"process {failed[0].rank} of the sweep stopped: {said}", where=str(log), fix=fix)

    def _log(self, place: int) -> Path:
        return self.plan.folder / LOGS / f"{place}.log"
