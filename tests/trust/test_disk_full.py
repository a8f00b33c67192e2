"""A full disk: a run that would not fit does not start; one under way pauses, says so, keeps what it has, and goes on by itself."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny
from forks import zygote
from full_disk import MIB, MOMENTS, Disk, has_ended, mounted, wait_for_words
from interrupted import PATIENCE_SECONDS
from runs import checkpoints_of, steps_of, weights_hash

from luthier.core import files, yaml
from luthier.training import checkpoint

PAUSED, GOES_ON = "the disk is full: the run pauses", "there is space again: going on"
DISK_MIB, NUM_STEPS, SAVE_EVERY = 200, 24, 4
AT_ANY_TIME = "whatever comes"
PLACES = [*MOMENTS, AT_ANY_TIME]
MOST_SECONDS = 10.0


class Bench(NamedTuple):
    """A small disk, a recipe, and the run that always had space."""

    disk: Disk
    recipe: Path
    whole: Path
    checkpoint_bytes: int
    seconds: float
    under_way: set[int]

    @property
    def said(self) -> Path:
        """What the last command said."""
        return self.recipe.with_name("said.txt")

    def start(self, *arguments: str, moment: str | None = None, leave: int = 0) -> int:
        """Start a command that fills the disk at a moment; returns its process id."""
        self.said.write_text("")
        process = zygote().start("full_disk:train", ["train", *arguments], str(self.disk.path), moment, leave, said=self.said)
        self.under_way.add(process)
        return process

    def end_of(self, process: int) -> int:
        """Wait for the end of a command; returns its exit code."""
        code = zygote().wait(process, PATIENCE_SECONDS)
        assert code is not None, f"it does not end: {self.said.read_text()[-2000:]}"
        self.under_way.remove(process)
        return code

    def kill_rest(self) -> None:
        """End what a test that failed has left running."""
        for process in [*self.under_way]:
            os.kill(process, signal.SIGKILL)
            self.end_of(process)

    def options(self, run: Path, place: str) -> list[str]:
        """What a run is started with; where the log is to hit the full disk, no checkpoint may come before it."""
        return [str(self.recipe), f"output={run}", *(["training.save_every=1000 steps"] if place == "the event log" else [])]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("disk")
    model = tiny.make_tiny_model(folder / "model", width=128)
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(200))
    changes = {"training.max_steps": NUM_STEPS, "training.save_every": f"{SAVE_EVERY} steps", "evaluate.baseline": False}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.dump(tiny.tiny_recipe(model, rows, folder / "never", changes)), encoding="utf-8")
    with mounted(folder / "disk", mib=DISK_MIB) as disk:
        if disk is None:
            pytest.skip("no small disk can be mounted here: run as root, or in `unshare -rm`")
        arguments = ["train", str(recipe), f"output={folder}/first"]
        assert zygote().run("full_disk:train", arguments, str(disk.path), None, 0, said=folder / "said.txt") == 0
        made = Bench(disk, recipe, folder / "whole", size_of(folder / "first"), 0.0, set())
        started = time.monotonic()
        assert made.end_of(made.start(str(recipe), f"output={folder}/whole")) == 0, made.said.read_text()
        yield made._replace(seconds=time.monotonic() - started)


def size_of(run: Path) -> int:
    newest, _ = checkpoint.newest_valid(run / "checkpoints")
    assert newest is not None
    return sum(file.stat().st_size for file in newest.iterdir())


@pytest.fixture
def run(bench: Bench) -> Iterator[Path]:
    """A run folder on the small disk."""
    yield bench.disk.path / "run"
    bench.kill_rest()
    bench.disk.empty()
    shutil.rmtree(bench.disk.path / "run", ignore_errors=True)


def pause(bench: Bench, run: Path, place: str, dice: random.Random) -> int:
    """Start a run, fill the disk so that a place is hit, and wait for the pause; returns the process id."""
    for _ in range(10):
        shutil.rmtree(run, ignore_errors=True)
        bench.disk.empty()
        leave = dice.randrange(bench.checkpoint_bytes) if place == "a checkpoint" else 0
        process = bench.start(*bench.options(run, place), moment=place, leave=leave)
        if place == AT_ANY_TIME:
            wait_for_first_line(run / "events.jsonl")
            time.sleep(dice.uniform(0, bench.seconds / 4))
            bench.disk.fill()
        if wait_for_words(bench.said, PAUSED, process) is not None:
            return process
        assert place == AT_ANY_TIME and bench.end_of(process) == 0, bench.said.read_text()
    raise AssertionError("ten times in a row the run was over before the disk was full")


def wait_for_first_line(log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not log.is_file() or not log.stat().st_size:
        assert time.monotonic() < deadline, "the training never began"
        time.sleep(0.002)


def faults_while_paused(run: Path, place: str) -> list[str]:
    """What is wrong with the run folder while the disk is full, in words."""
    faults = [fault for folder in checkpoint.all_checkpoints(run / "checkpoints") if (fault := checkpoint.fault_of(folder))]
    saved, reached = checkpoints_of(run), len(steps_of(run))
    wanted = {"a checkpoint": [4], "the event log": [], "model/": [20, 24], "the pages": [20, 24]}.get(place, saved)
    if saved != wanted or (place in ("model/", "the pages") and reached != NUM_STEPS):
        faults.append(f"step {reached}: checkpoints {saved}, wanted {wanted}")
    if (run / "model").exists() != (place == "the pages") and place != AT_ANY_TIME:
        faults.append("model/ is not as expected")
    return faults


def faults_of(bench: Bench, run: Path) -> list[str]:
    """What is wrong with a finished run, in words: it must be the one that always had space."""
    faults = []
    if weights_hash(run) != weights_hash(bench.whole):
        faults.append("other weights")
    if [(step["step"], step["loss"]) for step in steps_of(run)] != [(step["step"], step["loss"]) for step in steps_of(bench.whole)]:
        faults.append("another log")
    if files.read_json(run / "metrics.json")["scores"] != files.read_json(bench.whole / "metrics.json")["scores"]:
        faults.append("other scores")
    faults += [f"{name} is missing" for name in ("card.md", "report.html", "reference.jsonl") if not (run / name).is_file()]
    return faults + [f"{path.name} is left lying" for path in run.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_pauses_the_run(
    place: str, bench: Bench, run: Path, scale: Callable[[int, int], int], proof: Callable[..., None]
) -> None:
    dice, num_trials, slowest, faulty = random.Random(place), scale(1, 10), 0.0, 0
    for _ in range(num_trials):
        process = pause(bench, run, place, dice)
        faults = faults_while_paused(run, place)
        time.sleep(dice.uniform(0, scale(1, 8)))
        assert not has_ended(process), f"it has ended instead of waiting: {bench.said.read_text()}"
        emptied = time.monotonic()
        bench.disk.empty()
        went_on = wait_for_words(bench.said, GOES_ON, process)
        seconds = went_on - emptied if went_on else PATIENCE_SECONDS
        slowest = max(slowest, seconds)
        code, said = bench.end_of(process), " ".join(bench.said.read_text().split())
        faults += [f"exit code {code}"] if code else faults_of(bench, run)
        faults += [f"it was said {said.count(PAUSED)} times"] if said.count(PAUSED) != 1 else []
        faulty += bool(faults) or seconds > MOST_SECONDS
        if faults:
            print(*faults, said, sep="\n")
    proof(
        item="11",
        promise=f"the disk fills up, met first by {place}: the run pauses, says so once, keeps its checkpoints, and ends as one that "
        "always had space",
        asked="all go on within 10 s after space returns",
        reached=f"{num_trials - faulty} of {num_trials}, slowest after {slowest:.1f} s",
        ok=not faulty,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_paused_run_can_be_stopped(
    number: signal.Signals, bench: Bench, run: Path, scale: Callable[[int, int], int], proof: Callable[..., None]
) -> None:
    dice, places, slowest, faulty = random.Random(number), list(MOMENTS)[: scale(2, len(MOMENTS))], 0.0, 0
    for place in itertools.islice(itertools.cycle(places), scale(2, 20)):
        process = pause(bench, run, place, dice)
        sent = time.monotonic()
        os.kill(process, number)
        code, seconds = bench.end_of(process), time.monotonic() - sent
        slowest = max(slowest, seconds)
        said = " ".join(bench.said.read_text().split())
        is_right = code == 128 + number and seconds <= MOST_SECONDS and "Traceback" not in said and "luthier train --resume" in said
        faults = faults_while_paused(run, place)
        bench.disk.empty()
        code = bench.end_of(bench.start("--resume", str(run)))
        faults += [f"the resume ended with {code}: {bench.said.read_text()}"] if code else faults_of(bench, run)
        faulty += not is_right or bool(faults)
        if not is_right or faults:
            print(place, *faults, said, sep="\n")
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    proof(
        item="11",
        promise=f"{name} while the run waits for space: exit code {128 + number}, with space a resume ends as if nothing had been",
        asked="20 of 20, within 10 s",
        reached=f"{scale(2, 20) - faulty} of {scale(2, 20)}, slowest {slowest:.1f} s",
        ok=not faulty,
    )


def test_too_little_space_is_refused_before_the_first_step(
    bench: Bench, run: Path, scale: Callable[[int, int], int], proof: Callable[..., None]
) -> None:
    dice, num_trials, right = random.Random(11), scale(1, 10), 0
    for _ in range(num_trials):
        shutil.rmtree(run, ignore_errors=True)
        bench.disk.empty()
        free = int(bench.checkpoint_bytes * dice.uniform(0.2, 1.9)) + 64 * 2**10
        bench.disk.fill(leave=free)
        code, said = bench.end_of(bench.start(str(bench.recipe), f"output={run}")), " ".join(bench.said.read_text().split())
        is_said = (
            f"{free / MIB:.0f} MiB are free" in said and f"{2 * bench.checkpoint_bytes / MIB:.0f}" in said and "MiB are needed" in said
        )
        right += code == 2 and is_said and "Traceback" not in said and not (run / "events.jsonl").exists()
        if not right:
            print(code, said)
    bench.disk.empty()
    assert bench.end_of(bench.start("--resume", str(run))) == 0 and not faults_of(bench, run), "with space, the same run goes on"
    shutil.rmtree(run)
    bench.disk.fill(leave=int(2.5 * bench.checkpoint_bytes))
    options = [str(bench.recipe), f"output={run}", "training.max_steps=2"]
    assert bench.end_of(bench.start(*options)) == 0, "the control: a little more than is asked for is enough to start"
    proof(
        item="11",
        promise="less free space than twice the estimate of a checkpoint: refused before the first step, with both numbers",
        asked="exit code 2, always",
        reached=f"{right} of {num_trials}",
        ok=right == num_trials,
    )
