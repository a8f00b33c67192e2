"""SIGTERM and Ctrl-C at any moment: the last finished step is saved, the exit is quick and says how to go on, and nothing is lost."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny
from interrupted import PATIENCE_SECONDS, STEP_AIMED_AT, Commands, Ended, send
from runs import checkpoints_of, steps_of, weights_hash

from luthier.core import files, yaml
from luthier.training import checkpoint

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
AT_REST = ("data preparation", "warm-up")  # phases before the first step: nothing is there to be saved
WITH_WORKERS = "training with 2 loader workers"
UNDER_WAY = ("training", WITH_WORKERS, "evaluation", "save")
MOST_SECONDS = 10.0
NUM_STEPS = 20


class Workbench(NamedTuple):
    """Where commands are run, the run that was never stopped, and how long each phase of it took."""

    commands: Commands
    recipe: Path
    whole: Path
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("interrupts")
    model = tiny.make_tiny_model(folder / "model", width=64)
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(1200))
    changes = {
        "data.split": {"validation": 0.3, "test": 0.2},
        "training.max_steps": NUM_STEPS,
        "training.eval_every": "4 steps",
        "training.save_every": "3 steps",
        "evaluate.baseline": False,
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.dump(tiny.tiny_recipe(model, rows, folder / "never", changes)), encoding="utf-8")
    commands = Commands(folder)
    assert commands.learn_imports("train", str(recipe), f"output={folder}/first") == 0
    seconds = commands.seconds_of_phases("train", str(recipe), f"output={folder}/whole", "data.cache=false")
    return Workbench(commands, recipe, folder / "whole", seconds)


def options_for(phase: str) -> list[str]:
    return {"data preparation": ["data.cache=false"], WITH_WORKERS: ["training.num_workers=2"]}.get(phase, [])


def stopped_inside(bench: Workbench, run: Path, number: int, phase: str, dice: random.Random) -> Ended:
    """Stop a new run at a random moment of a phase; where the phase was over too soon, try once more."""
    for _ in range(10):
        shutil.rmtree(run, ignore_errors=True)
        after = dice.uniform(0, bench.seconds[phase])
        stopped = bench.commands.stop(number, "train", str(bench.recipe), f"output={run}", *options_for(phase), phase=phase, after=after)
        if stopped.is_inside:
            return stopped
    raise AssertionError(f"ten signals in a row came too late for {phase}, which takes {bench.seconds[phase]:.3f} s")


def faults_of(stopped: Ended, run: Path, number: int, phase: str) -> list[str]:
    """What is wrong with a run that was stopped, in words; nothing where the promise was kept."""
    faults = []
    if stopped.exit_code != CODES[number]:
        faults.append(f"exit code {stopped.exit_code}")
    if stopped.seconds > MOST_SECONDS:
        faults.append(f"exit after {stopped.seconds:.1f} s")
    if "Traceback" in stopped.said or "Exception ignored" in stopped.said:
        faults.append("a traceback was printed")
    if "luthier train --resume" not in stopped.said:
        faults.append("it was not said how to go on")
    reached, (saved, complaints) = (
        steps_of(run)[-1]["step"] if (run / "events.jsonl").exists() else 0,
        checkpoint.newest_valid(run / "checkpoints"),
    )
    if complaints or (checkpoint.step_of(saved) if saved else 0) != reached:
        faults.append(f"step {reached} was finished, saved is {saved and saved.name} {complaints}")
    if phase in UNDER_WAY and not STEP_AIMED_AT - 2 <= reached:
        faults.append(f"only step {reached} was reached")
    if phase == "finish" and reached != NUM_STEPS:
        faults.append(f"the training ended at step {reached}")
    left = [str(path.relative_to(run)) for path in run.rglob(".*") if path.name != ".lock"]
    return faults + [f"{name} is left lying" for name in left]


def faults_of_resume(bench: Workbench, run: Path) -> list[str]:
    """What is wrong with going on, in words: it must end as the run that was never stopped."""
    done = bench.commands.run("train", "--resume", str(run))
    if done.exit_code != 0:
        return [f"the resume ended with {done.exit_code}: {done.said}"]
    faults = []
    if weights_hash(run) != weights_hash(bench.whole):
        faults.append("the resumed run has other weights")
    if [(step["step"], step["loss"]) for step in steps_of(run)] != [(step["step"], step["loss"]) for step in steps_of(bench.whole)]:
        faults.append("the resumed run has another log")
    if files.read_json(run / "metrics.json")["scores"] != files.read_json(bench.whole / "metrics.json")["scores"]:
        faults.append("the resumed run has other scores")
    return faults


@pytest.mark.parametrize("number", CODES, ids=NAMES.values())
@pytest.mark.parametrize("phase", [*AT_REST, *UNDER_WAY, "finish"])
def test_a_signal_in_any_phase_loses_nothing(
    phase: str, number: int, bench: Workbench, scale: Callable[[int, int], int], proof: Callable[..., None], tmp_path: Path
) -> None:
    dice, run = random.Random(f"{phase} {number}"), tmp_path / "run"
    num_trials, slowest, faulty = scale(2, 20), 0.0, []
    num_resumed = scale(1, 5)
    for trial in range(num_trials):
        stopped = stopped_inside(bench, run, number, phase, dice)
        slowest = max(slowest, stopped.seconds)
        faults = faults_of(stopped, run, number, phase)
        if trial >= num_trials - num_resumed:
            faults += faults_of_resume(bench, run)
        if faults:
            faulty.append(faults)
            print(*faults, stopped.said, sep="\n")
    proof(
        item="9",
        promise=f"{NAMES[number]} in {phase}: saved, exit code {CODES[number]}, no traceback, and a resume ends as if it had not happened",
        asked="20 of 20, within 10 s",
        reached=f"{num_trials - len(faulty)} of {num_trials}, slowest {slowest:.1f} s, {num_resumed} resumed bit for bit",
        ok=not faulty,
    )


def test_a_second_ctrl_c_stops_at_once(
    bench: Workbench, scale: Callable[[int, int], int], proof: Callable[..., None], tmp_path: Path
) -> None:
    run, num_trials, slowest, faulty = tmp_path / "run", scale(1, 20), 0.0, 0
    for _ in range(num_trials):
        shutil.rmtree(run, ignore_errors=True)
        stopped = bench.commands.stop_twice("train", str(bench.recipe), f"output={run}")
        slowest = max(slowest, stopped.seconds)
        is_right = stopped.exit_code == 130 and stopped.seconds < MOST_SECONDS and "Traceback" not in stopped.said
        faulty += not (is_right and "end" not in stopped.notes and checkpoints_of(run) == [3, 4])
    print(stopped.said)
    faults = faults_of_resume(bench, run)
    proof(
        item="9",
        promise="a second Ctrl-C in a step that does not end stops at once, and what was saved before is there",
        asked="20 of 20",
        reached=f"{num_trials - faulty} of {num_trials}, slowest {slowest:.1f} s",
        ok=not faulty and not faults,
    )


def test_a_signal_while_the_libraries_are_loaded(
    bench: Workbench, scale: Callable[[int, int], int], proof: Callable[..., None], tmp_path: Path
) -> None:
    """A whole new process: from the moment its run folder is there, most of its time goes into imports."""
    dice, num_trials, slowest, faulty, run = random.Random(9), scale(1, 20), 0.0, 0, tmp_path / "run"
    for number in [*CODES][: scale(1, 2)]:
        for trial in range(num_trials):
            shutil.rmtree(run, ignore_errors=True)
            stopped = stopped_while_starting(bench, run, number, dice.uniform(0, 4))
            slowest = max(slowest, stopped.seconds)
            faults = faults_of(stopped, run, number, "start")
            faults += faults_of_resume(bench, run) if trial == num_trials - 1 else []
            faulty += bool(faults)
            print(*faults, stopped.said, sep="\n")
    proof(
        item="9",
        promise="SIGTERM and Ctrl-C in the first 4 s of a new process, which loads its libraries",
        asked="40 of 40, within 10 s",
        reached=f"{num_trials * scale(1, 2) - faulty} of {num_trials * scale(1, 2)}, slowest {slowest:.1f} s",
        ok=not faulty,
    )


def stopped_while_starting(bench: Workbench, run: Path, number: int, after: float) -> Ended:
    command = [sys.executable, "-m", "luthier", "train", str(bench.recipe), f"output={run}"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (run / "recipe.yaml").is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    time.sleep(after)
    sent = time.monotonic()
    send(process.pid, number)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return Ended(process.returncode, said, time.monotonic() - sent, True)


def test_the_phases_are_told_apart(bench: Workbench) -> None:
    """The control: a signal after the end of a phase counts as outside of it, and a run without one is whole."""
    assert all(0 < seconds < 60 for seconds in bench.seconds.values())
    assert [step["step"] for step in steps_of(bench.whole)] == list(range(1, NUM_STEPS + 1))
    late = bench.commands.stop(
        signal.SIGTERM, "train", str(bench.recipe), f"output={bench.whole}-late", phase="warm-up", after=bench.seconds["warm-up"] + 0.2
    )
    assert not late.is_inside and list(itertools.pairwise(sorted(late.notes, key=late.notes.__getitem__)))[0] == ("begin", "end")
