"""Item 16: the same recipe on Ray Train: the same numbers as on processes of this machine, and no sample lost when a worker is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
from runs import checkpoints_of, steps_of, weights_hash

from luthier.core import files, yaml
from luthier.training.signals import StopSignal, ask_to_stop

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install -c constraints.txt -e '.[ray]'")
MOST_SECONDS = 400
STEPS, ROWS = 24, 72
CHANGES = {
    "training.max_steps": STEPS,
    "training.save_every": "5 steps",
    "training.ledger": True,
    "data.split": {"validation": 0.2, "test": 0.2},
    "evaluate.baseline": False,
}
KILLS = """\
import os, signal
from pathlib import Path
from luthier.training.step_rules.accumulate import Accumulate

RIGHT, ENDED, steps = Accumulate.gradient, Path({ended!r}), 0

def gradient(*given, **named):
    global steps
    steps += 1
    if os.environ["RANK"] == "1" and steps == 13 and not ENDED.exists():
        ENDED.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return RIGHT(*given, **named)

Accumulate.gradient = gradient
"""
SLEEPS = """\
import time
from luthier.training.step_rules.accumulate import Accumulate

RIGHT = Accumulate.gradient

def gradient(*given, **named):
    time.sleep(0.3)
    return RIGHT(*given, **named)

Accumulate.gradient = gradient
"""


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it said."""

    code: int
    said: str


class Bed:
    """A recipe in a folder of its own, and the command line that trains it.

    Args:
        folder: The folder.
        recipe: The recipe, without an output.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        (folder / "recipe.yaml").write_text(yaml.dump({key: value for key, value in recipe.items() if key != "output"}))

    def start(self, output: str, *arguments: str) -> subprocess.Popen[str]:
        """Start `luthier train` into a run folder."""
        command = [sys.executable, "-m", "luthier", "train", "recipe.yaml", "--output", output, *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
        return subprocess.Popen(command, cwd=self.folder, **pipes)

    def train(self, output: str, *arguments: str) -> Ended:
        """Train into a run folder."""
        return ended(self.start(output, *arguments))

    def code(self, name: str, text: str) -> str:
        """Write a file for --code."""
        (self.folder / name).write_text(text)
        return name


def ended(process: subprocess.Popen[str]) -> Ended:
    try:
        said, _ = process.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(process.returncode, " ".join(said.split()))


def farthest(one: Path, other: Path) -> float:
    """The largest difference of a loss at the same step of two runs."""
    pairs = zip(steps_of(one), steps_of(other), strict=True)
    return max(abs(mine["loss"] - theirs["loss"]) for mine, theirs in pairs)


def ledger_faults(run: Path) -> list[str]:
    """What is wrong with the rows of a finished run: each of whole epochs exactly once, and every step there once."""
    lines = list(files.read_json_lines(run / "ledger.jsonl"))
    faults = [] if [line["step"] for line in lines] == list(range(1, STEPS + 1)) else ["steps"]
    epochs: dict[int, Counter[int]] = {}
    for line in lines:
        epochs.setdefault(line["epoch"], Counter()).update(line["ids"])
    last = max(epochs)
    for epoch, seen in epochs.items():
        if set(seen.values()) != {1} or (epoch != last and len(seen) != ROWS):
            faults.append(f"epoch {epoch}: {len(seen)} rows, {seen.total()} times")
    return faults


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory, tiny_csv: Path) -> Bed:
    model = tiny.make_tiny_model(tmp_path_factory.mktemp("still") / "tiny-bert", dropout=0.0)
    return Bed(tmp_path_factory.mktemp("ray"), tiny.tiny_recipe(model, tiny_csv, Path("unused"), CHANGES))


@pytest.fixture(scope="module")
def on_processes(bed: Bed) -> Path:
    """The same recipe on two processes of this machine."""
    done = bed.train("processes", "--processes", "2")
    assert done.code == 0, done.said
    return bed.folder / "processes"


@needs_ray
@pytest.mark.slow
def test_ray_computes_what_two_processes_compute(bed: Bed, on_processes: Path, proof: Callable[..., None]) -> None:
    done = bed.train("ray", "--cluster", "ray")
    run = bed.folder / "ray"
    assert done.code == 0, done.said
    assert f"report: {run / 'report.html'}" in done.said and files.read_json(run / "metrics.json")["steps"] == STEPS
    same = (run / "ledger.jsonl").read_text() == (on_processes / "ledger.jsonl").read_text()
    proof(
        item="16",
        promise="the same recipe on a local Ray of 2 workers and with --processes 2",
        asked=f"{STEPS} steps, the same rows in each, losses within 1e-5 with dropout 0",
        reached=f"{len(steps_of(run))} steps, {'the same rows' if same else 'other rows'}, losses within {farthest(run, on_processes):.1g}",
        ok=same and not ledger_faults(run) and farthest(run, on_processes) <= 1e-5,
    )


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_loses_nothing(bed: Bed, on_processes: Path, proof: Callable[..., None]) -> None:
    mark = bed.folder / "a worker was killed"
    done = bed.train("killed", "--cluster", "ray", "--code", bed.code("kills.py", KILLS.format(ended=str(mark))))
    run = bed.folder / "killed"
    assert done.code == 0, done.said
    assert mark.exists() and "process 1 ended" in done.said and "resumed from step-00000010" in done.said, done.said
    faults = ledger_faults(run)
    proof(
        item="16",
        promise="SIGKILL of one of 2 Ray workers in the middle of a run",
        asked="Ray starts it again from the last checkpoint, every row once per epoch, losses within 1e-5 of the run never killed",
        reached=f"finished by itself, faults of the ledger: {faults or 'none'}, losses within {farthest(run, on_processes):.1g}",
        ok=not faults and farthest(run, on_processes) <= 1e-5,
    )


@needs_ray
@pytest.mark.slow
def test_sigterm_saves_a_run_on_ray_and_it_goes_on(bed: Bed, on_processes: Path, proof: Callable[..., None]) -> None:
    run = bed.folder / "stopped"
    process = bed.start("stopped", "--cluster", "ray", "--code", bed.code("sleeps.py", SLEEPS))
    deadline = time.monotonic() + MOST_SECONDS
    while not (run / "ledger.jsonl").exists() or len((run / "ledger.jsonl").read_text().splitlines()) < 7:
        assert process.poll() is None and time.monotonic() < deadline, ended(process)
        time.sleep(0.1)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    stopped = ended(process)
    seconds = time.monotonic() - started
    saved = checkpoints_of(run)[-1]
    assert stopped.code == 143 and f"stopped after step {saved}" in stopped.said, stopped
    again = bed.train("stopped", "--cluster", "ray", "--resume", "auto")
    proof(
        item="16",
        promise="SIGTERM to a run on Ray",
        asked="exit code 143 within 10 s, saved at the last finished step, goes on with --resume auto to the same weights",
        reached=f"code {stopped.code} in {seconds:.1f} s, saved at step {saved}, then code {again.code}, "
        f"{'the same weights' if weights_hash(run) == weights_hash(on_processes) else 'other weights'}",
        ok=again.code == 0 and seconds <= 10 and not ledger_faults(run) and weights_hash(run) == weights_hash(on_processes),
    )


@needs_ray
@pytest.mark.slow
def test_a_mistake_of_the_user_is_said_once_and_not_tried_again(bed: Bed) -> None:
    done = bed.train("mistaken", "--cluster", "ray", "data.train=no-such-file.csv")
    assert done.code == 2 and done.said.count("no such file or folder: 'no-such-file.csv'") == 1 and "Traceback" not in done.said, done.said


def test_the_ledger_check_sees_a_lost_and_a_doubled_row(tmp_path: Path) -> None:
    steps_per_epoch = ROWS // 8
    rows = [list(range(8 * number, 8 * number + 8)) for number in range(steps_per_epoch)]
    lines = [{"step": step + 1, "epoch": step // steps_per_epoch, "ids": list(rows[step % steps_per_epoch])} for step in range(STEPS)]
    files.write_json_lines(tmp_path / "ledger.jsonl", lines)
    assert ledger_faults(tmp_path) == []
    lines[2]["ids"][0] = lines[1]["ids"][0]
    files.write_json_lines(tmp_path / "ledger.jsonl", lines)
    assert ledger_faults(tmp_path) == [f"epoch 0: {ROWS - 1} rows, {ROWS} times"]
    files.write_json_lines(tmp_path / "ledger.jsonl", lines[:5] + lines[6:])
    assert "steps" in ledger_faults(tmp_path)


@needs_ray
def test_an_address_where_nothing_answers_is_said_at_once(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.core.errors import SetupError
    from luthier.workflows import ray_cluster

    for address, wanted in (("127.0.0.1:9", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9"), ("ray://127.0.0.1:10001", "HOST:PORT")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.chdir(bed.folder)
        training = ray_cluster.begin("recipe.yaml", ray_cluster.Workers(), changes=[("output", "nowhere")], started=time.time())
        with pytest.raises(SetupError, match=wanted):
            list(training)


def test_a_training_in_a_thread_can_be_asked_to_stop() -> None:
    assert not ask_to_stop(signal.SIGTERM)
    is_in, is_asked, found = threading.Event(), threading.Event(), []

    def train() -> None:
        with StopSignal() as stop:
            is_in.set()
            is_asked.wait(10)
            found.append((stop.is_agreed(), stop.exit_code))

    thread = threading.Thread(target=train)
    thread.start()
    assert is_in.wait(10) and ask_to_stop(signal.SIGTERM)
    is_asked.set()
    thread.join(10)
    assert found == [(True, 143)] and not ask_to_stop(signal.SIGTERM)


def test_without_ray_the_command_to_install_it_is_named(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.core.errors import SetupError
    from luthier.workflows import ray_cluster

    monkeypatch.chdir(bed.folder)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(SetupError, match="pip install 'ray"):
        ray_cluster.begin("recipe.yaml", ray_cluster.Workers(), changes=[("output", "nowhere")], started=time.time())
