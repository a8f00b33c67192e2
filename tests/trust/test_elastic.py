"""Item 15: workers and whole agents of torchrun are killed and come back; no row of a committed step is lost or doubled in an epoch.

The run's own ledger tells: its lines are the rows of the steps that count, as steps that are done again replace what they were.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from runs import steps_of

from luthier import flow
from luthier.core import files

MakeRecipe = Callable[..., dict[str, Any]]
PATIENCE_SECONDS = 900.0
SHORT_WAITS = "join_timeout=60,last_call_timeout=2,close_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5,read_timeout=20"
UNSAFE = Path(__file__).with_name("unsafe_place.py")
STEPS_PER_EPOCH = 12  # 90 training rows of 120, 8 in a step


@pytest.fixture
def write(tmp_path: Path, recipe: MakeRecipe) -> Callable[..., Path]:
    """Write a recipe of some steps without dropout, with a ledger and a checkpoint every 2 steps; returns its path."""
    model = tiny.make_tiny_model(tmp_path / "still", dropout=0.0)

    def make(steps: int, name: str = "run") -> Path:
        changes = {"training.max_steps": steps, "training.save_every": "2 steps", "training.ledger": True, "evaluate.baseline": False}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe(name, changes, model=model)), encoding="utf-8")
        return path

    return make


class Agent:
    """A torchrun with `luthier train --resume auto`, in a session of its own.

    With the variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE workers make a store of their own at each start. Without it an agent that comes
    back waits in vain for the address of the shared one (torch 2.13), which agents that stayed do not say again.

    Args:
        flags: torchrun's.
        recipe: Path of the recipe.
        said: File for what it says.
        unsafe: Variables that unsafe_place.py reads.
    """

    def __init__(self, flags: list[str], recipe: Path, said: Path, unsafe: dict[str, str]) -> None:
        self.said = said
        command = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.2", *flags]
        command += ["-m", "luthier", "train", "--resume", "auto", str(recipe), "--code", str(UNSAFE)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **unsafe}
        with said.open("ab") as out:
            self.popen = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True, env=environment
            )

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        return [int(child) for child in children if b"luthier" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def kill(self) -> None:
        """Kill it with all its workers, as when the machine fails."""
        for process in [*self.workers(), self.popen.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.popen.wait()

    def is_ended(self) -> bool:
        """Whether it has ended."""
        return self.popen.poll() is not None

    def words(self) -> str:
        """The end of what it said."""
        return self.said.read_text(errors="replace")[-4000:]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start an agent: `agent(flags, recipe)`; none outlives the test."""
    started: list[Agent] = []

    def start(flags: list[str], recipe: Path, **unsafe: str) -> Agent:
        started.append(Agent(flags, recipe, tmp_path / f"agent-{len(started)}.txt", unsafe))
        return started[-1]

    yield start
    for one in started:
        if not one.is_ended():
            one.kill()


def last_step(run: Path) -> int:
    """The last step in the log."""
    events = run / "events.jsonl"
    steps = [line["step"] for line in files.read_json_lines(events) if "loss" in line] if events.exists() else []
    return max(steps, default=0)


def wait_until(happened: Callable[[], bool], agents: list[Agent]) -> None:
    """Wait until something happened; an agent that ends before is an error."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"it does not happen: {agents[-1].words()}"
        assert not any(one.is_ended() for one in agents), "\n".join(one.words() for one in agents)
        time.sleep(0.05)


def wait_for_end(agents: list[Agent]) -> None:
    """Wait until all agents have ended, and well."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(one.is_ended() for one in agents):
        assert time.monotonic() < deadline, agents[0].words()
        time.sleep(0.1)
    assert [one.popen.returncode for one in agents] == [0] * len(agents), "\n".join(one.words() for one in agents)


def rows_lost_or_doubled(run: Path, steps: int) -> tuple[int, int]:
    """Count rows that an epoch misses and rows that it has twice, by the ledger; all steps must be in it, and in the log, once."""
    ledger = files.read_json_lines(run / "ledger.jsonl")
    assert [line["step"] for line in ledger] == [step["step"] for step in steps_of(run)] == list(range(1, steps + 1))
    assert (run / "metrics.json").is_file() and (run / "model" / "model.safetensors").is_file()
    everything = {id_ for line in ledger[:STEPS_PER_EPOCH] for id_ in line["ids"]}
    assert len(everything) == json.loads((run / "data.json").read_text())["splits"]["train"]["rows"] == 90
    lost = doubled = 0
    for epoch in range(steps // STEPS_PER_EPOCH):
        seen = Counter(id_ for line in ledger if line["epoch"] == epoch for id_ in line["ids"])
        lost += len(everything - seen.keys())
        doubled += sum(count - 1 for count in seen.values())
    return lost, doubled


def test_a_worker_is_killed_5_steps_after_each_start(
    write: Callable[..., Path], agent: Callable[..., Agent], tmp_path: Path, scale: Callable[[int, int], int], proof: Callable[..., None]
) -> None:
    num_kills = scale(1, 12)
    steps = STEPS_PER_EPOCH * scale(1, 5)
    run = tmp_path / "run"
    one = agent(["--standalone", "--nproc-per-node", "2", "--max-restarts", "20"], write(steps), UNSAFE_KILLS=str(num_kills))
    wait_for_end([one])
    died = one.said.read_text(errors="replace").count("exitcode: -9")
    lost, doubled = rows_lost_or_doubled(run, steps)
    alone = flow.train(write(steps, "alone")).path
    assert files.read_json_lines(run / "ledger.jsonl") == files.read_json_lines(alone / "ledger.jsonl")
    worst = max(abs(step["loss"] - other["loss"]) / other["loss"] for step, other in zip(steps_of(run), steps_of(alone), strict=True))
    assert worst <= 1e-3, "the loss log is that of a run of one process that nobody disturbs"
    proof(
        item="15",
        promise="elastic: 1 of 2 workers killed 5 steps after each start, torchrun starts them again",
        asked=f"{num_kills} kills: the run finishes, no row lost or doubled in an epoch",
        reached=f"{died} kills, finished; {lost} lost, {doubled} doubled in {steps // STEPS_PER_EPOCH} epochs",
        ok=died == num_kills and lost == doubled == 0,
    )


@pytest.mark.slow
def test_an_agent_is_killed_and_started_again(
    write: Callable[..., Path], agent: Callable[..., Agent], tmp_path: Path, proof: Callable[..., None]
) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    steps, run, slow = STEPS_PER_EPOCH * 40, tmp_path / "run", tmp_path / "slow"
    slow.touch()
    recipe = write(steps)
    flags = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "20", "--rdzv-backend", "c10d", "--rdzv-id", "run"]
    flags += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-conf", SHORT_WAITS, "--local-addr", "127.0.0.1"]
    stays = agent(flags, recipe, UNSAFE_SLOW=str(slow))  # the first holds the store: it must outlive the others
    wait_until(lambda: _is_listened_at(port), [stays])
    goes = agent(flags, recipe, UNSAFE_SLOW=str(slow))
    wait_until(lambda: _size(stays) == 2 and last_step(run) >= 5, [stays, goes])
    sizes, reached = [_size(stays)], last_step(run)
    goes.kill()
    wait_until(lambda: _size(stays) == 1 and last_step(run) >= reached + 5, [stays])
    sizes.append(_size(stays))
    back = agent(flags, recipe, UNSAFE_SLOW=str(slow))
    wait_until(lambda: _size(stays) == 2 and _size(back) == 2, [stays, back])
    sizes.append(_size(stays))
    slow.unlink()
    wait_for_end([stays, back])
    lost, doubled = rows_lost_or_doubled(run, steps)
    proof(
        item="15",
        promise="elastic: of two agents (--nnodes 1:2) one is killed and started again",
        asked="2 -> 1 -> 2 processes, the run finishes, no row lost or doubled in an epoch",
        reached=f"{' -> '.join(map(str, sizes))} processes, finished; {lost} lost, {doubled} doubled in {steps // STEPS_PER_EPOCH} epochs",
        ok=sizes == [2, 1, 2] and lost == doubled == 0,
    )


def _is_listened_at(port: int) -> bool:
    """Whether the store stands: of two agents on one machine the one that is there first holds it."""
    tables = [Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = [line.split()[1:4] for table in tables for line in table]
    return any(local.endswith(f":{port:04X}") and state == "0A" for local, _, state in sockets)


def _size(one: Agent) -> int:
    """How many processes train together with the worker of an agent; 0 while it has none."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        words = Path(f"/proc/{one.workers()[0]}/environ").read_bytes().split(b"\0")
        return next((int(word.partition(b"=")[2]) for word in words if word.startswith(b"WORLD_SIZE=")), 0)
    return 0
