"""Run the sides of a work in turns, each in a fresh process, and keep what each one says of itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from race.work import OURS, Side, Turn, Work, in_turns

BENCH = Path(__file__).parents[1]
ROOT = BENCH.parent
VENVS = BENCH / ".venvs"
MADE = BENCH / ".cache"
HOURS = 2
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


class Failed(Exception):
    """A side could not do the work; the text says why."""


def run(work: Work, *, num_pairs: int, threads: int, steps: int | None, peers: Sequence[str] = ()) -> dict[str, Any]:
    """Return what docs/speed.json keeps of a work: every reading of every side, and why a side has none.

    Args:
        work: What is done.
        num_pairs: How often each side does it.
        threads: Threads of the matrix library, the same for all.
        steps: Optimiser steps of each run; None trains to the end.
        peers: Names of the only peers to take; none: all.
    """
    sides = [side for side in work.sides if side.name == OURS or not peers or side.name in peers]
    kept: dict[str, dict[str, Any]] = {side.name: _asked(side) | {"readings": []} for side in sides}
    for name in work.materials:
        make(name)
    for number, side in in_turns(num_pairs, sides):
        found = kept[side.name]
        if "failed" in found:
            continue
        try:
            found["packages"] = found.get("packages") or versions(side)
            reading = take(work, side, number=number, threads=threads, steps=steps)
        except Failed as error:
            found["failed"] = str(error)
            print(f"  {side.name}: {error}", flush=True)
            continue
        found["readings"].append(reading)
        score = f", score {reading['score']:.3f}" if reading.get("score") is not None else ""
        print(f"  {number + 1}/{num_pairs} {side.name}: {reading['value']:.4g} {work.unit}{score}", flush=True)
    facts = {"title": work.title, "unit": work.unit, "more_is_better": work.more_is_better, "limit": work.limit}
    return {**facts, "threads": threads, "steps": steps, "sides": kept}


def take(work: Work, side: Side, *, number: int, threads: int, steps: int | None) -> dict[str, Any]:
    """Run one side once and return its reading: what it printed last, its wall time and its largest resident memory.

    Raises:
        Failed: if it ends with an error, says nothing, or takes too long.
    """
    with empty_folder() as folder:
        turn = Turn(number, folder, threads, steps)
        command = [program_of(side), *side.command(turn)]
        said, seconds, peak = watched(command, environ_of(side, turn), folder)
        reading = last_object(said, needed=not work.wall)
    value = reading.pop("value", None)
    value = seconds if work.wall else value
    return {"pair": number, "value": value, "wall_seconds": round(seconds, 3), "peak_bytes": peak, **reading}


def watched(command: list[str], environ: dict[str, str], folder: Path) -> tuple[str, float, int]:
    """Run a command to its end; return what it printed, its wall time, and the largest resident memory of it or of a child of it.

    The kernel lets a process begin with the peak of the one that starts it, so what calls this should be small, and import no torch.
    """
    with (folder / "stdout.txt").open("w+") as out, (folder / "stderr.txt").open("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environ, cwd=folder, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + HOURS * 3600
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        while not pid:
            if time.monotonic() > deadline:
                process.kill()
                raise Failed(f"took more than {HOURS} hours")
            time.sleep(0.002)
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        said = out.read()
        if process.returncode:
            lines = [line.strip() for line in (err.read() or said).splitlines() if line.strip()]
            raise Failed(lines[-1][:300] if lines else f"exit code {process.returncode}")
    return said, seconds, used.ru_maxrss * 1024


def last_object(said: str, *, needed: bool = True) -> dict[str, Any]:
    """Return the last line that is a JSON object with a value, or an empty one where none is needed.

    Raises:
        Failed: if there is none.
    """
    for line in reversed(said.splitlines()):
        if line.startswith("{") and '"value"' in line:
            return json.loads(line)
    if needed:
        raise Failed("it printed no reading")
    return {}


def program_of(side: Side) -> str:
    """Return the program that a side's words are given to.

    Raises:
        Failed: if its environment was not made.
    """
    if not side.venv:
        return str(Path(sys.executable).with_name(side.program)) if side.program else sys.executable
    found = VENVS / side.venv / "bin" / (side.program or "python")
    if not (VENVS / side.venv / "made.txt").exists() or not found.exists():
        raise Failed(f"not installed: make bench-setup, or python bench/setup.py {side.venv}")
    return str(found)


def environ_of(side: Side, turn: Turn) -> dict[str, str]:
    """Return the variables of a run: the same threads and the same waiting for everybody, caches empty, nothing fetched."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_", "GOMP_", "MALLOC_", "LD_PRELOAD", "HF_"))
    }
    same = {"OMP_NUM_THREADS": str(turn.threads), "GOMP_SPINCOUNT": "1000", "HF_HUB_OFFLINE": "1", "HF_HOME": str(turn.folder / "hf")}
    if side.venv:
        kept.pop("PYTHONPATH", None)
    else:
        same["PYTHONPATH"] = str(ROOT)
    return kept | same | {"LUTHIER_CACHE": str(turn.folder / "cache"), "TOKENIZERS_PARALLELISM": "true"} | side.environ


def versions(side: Side) -> dict[str, str]:
    """Return the versions of a side's packages.

    Raises:
        Failed: if its environment was not made.
    """
    if not side.venv:
        return {}
    python = program_of(Side(side.name, side.command, venv=side.venv))
    done = subprocess.run([python, "-c", VERSIONS, *side.packages], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def make(name: str) -> None:
    """Make a model or a file that both sides take, once."""
    if not (MADE / name).exists():
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, str(BENCH / "ours" / "material.py"), name], check=True, env=environ)


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Within the context, an empty folder on the disk of this project, as large as runs may be."""
    MADE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="turn-", dir=MADE))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _asked(side: Side) -> dict[str, Any]:
    return {"asked_ratio": side.ratio, "asked_memory": side.memory}
