"""Start one run in several processes of this machine, and end them together: when one dies, its own error is what is shown."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from luthier.core.errors import GO_ON, Interrupted, LuthierError, RunStopped
from luthier.core.machine import available_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("luthier")
COMMAND = (sys.executable, "-m", "luthier")
LAUNCHED = "LUTHIER_LAUNCHED"  # process id of the launcher
PEER_LOST = 76  # exit code of a launched process that stopped only because another one ended
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_FOLLOW = 10.0  # when one has ended with an error, for the others to end by themselves
LOOPBACK = {"linux": "lo", "darwin": "lo0"}
SIGNAL_WHEN_PARENT_DIES = 1  # of Linux' prctl


class Ended(LuthierError):
    """A process ended with an error that it has said itself.

    Args:
        exit_code: Its exit code.
        said: What it said, where it was not process 0, which talks to the person itself.
    """

    def __init__(self, exit_code: int, said: str | None) -> None:
        self.exit_code, self.said = exit_code, said
        super().__init__(said or "")


@dataclass
class Process:
    """One started process; what all but the first say goes to a file, to be shown if it is the one that fails."""

    rank: int
    popen: subprocess.Popen[bytes]
    said: IO[bytes] | None = field(default=None)

    @property
    def code(self) -> int | None:
        """Exit code, minus the signal that killed it, or None while it runs."""
        return self.popen.poll()


def launch(arguments: list[str], processes: int) -> None:
    """Run `luthier ARGUMENTS` in several processes and wait for all of them.

    Args:
        arguments: What stands after `luthier`; the same for every process.
        processes: How many.

    Raises:
        Ended: if one failed, or was interrupted, with its exit code.
        RunStopped: if one was killed.
    """
    cores = available_cores()
    if processes > cores:
        log.warning("%d processes share %d cores: expect them to be slower than %d", processes, cores, cores)
    started: list[Process] = []
    with _free_port() as port, signals_to(started) as received:
        environment = _environment(processes, port, threads=max(1, cores // processes))
        try:
            for rank in range(processes):
                started.append(_start(arguments, environment, rank))
            failed = _failure(started)
            if failed is not None:
                _say_and_raise(failed, received)
        finally:
            _end(started)


def follow_launcher() -> None:
    """End this process, after it has saved, when the launcher that started it is killed; does nothing where there is none."""
    launcher = os.environ.get(LAUNCHED)
    if launcher is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SIGNAL_WHEN_PARENT_DIES, signal.SIGTERM)
    if os.getppid() != int(launcher):
        raise RunStopped("the command that started this process was killed", fix=GO_ON)


def keep_to_cores(pid: int, place: int, workers: int) -> None:
    """Let a process use its share of the cores alone, so that it takes no more threads than it has; on Linux only.

    Args:
        pid: Its number.
        place: Which of the processes it is, from 0.
        workers: How many share the cores; where they are more than cores, nothing is done.
    """
    if not hasattr(os, "sched_setaffinity") or not 1 < workers <= available_cores():
        return
    cores = sorted(os.sched_getaffinity(0))
    with suppress(OSError):  # it may have ended already
        os.sched_setaffinity(pid, cores[place * len(cores) // workers : (place + 1) * len(cores) // workers])


def _environment(processes: int, port: int, *, threads: int) -> dict[str, str]:
    environment = {**os.environ, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), LAUNCHED: str(os.getpid())}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    if sys.platform in LOOPBACK:
        environment.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    return environment


def _start(arguments: list[str], environment: dict[str, str], rank: int) -> Process:
    """Start one process, in a group of its own: Ctrl-C in a terminal comes to the launcher alone, which hands it on once."""
    said = tempfile.TemporaryFile() if rank else None
    popen = subprocess.Popen(
        [*COMMAND, *arguments],
        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if rank else None,
        stderr=said,
        process_group=0,
    )
    return Process(rank, popen, said)


def _failure(started: list[Process]) -> Process | None:
    """Wait until all ended well, or return the one to blame once the others had time to end by themselves.

    That is the first that ended with an error of its own, and not because it lost another; where process 0 says the same, process 0.
    """
    failed: list[Process] = []
    deadline = float("inf")
    while time.monotonic() < deadline and any(process.code is None for process in started):
        time.sleep(SECONDS_BETWEEN_LOOKS)
        failed += [process for process in started if process.code and process not in failed]
        if failed:
            deadline = min(deadline, time.monotonic() + SECONDS_TO_FOLLOW)
    failed += [process for process in started if process.code and process not in failed]
    causes = [process for process in failed if process.code != PEER_LOST] or failed
    if not causes:
        return None
    return started[0] if started[0].code == causes[0].code else causes[0]


def _say_and_raise(failed: Process, received: list[int]) -> None:
    code, said = failed.popen.returncode, None
    if failed.said is not None:
        failed.said.seek(0)
        said = failed.said.read().decode(errors="replace")
        sys.stderr.write(said)
        sys.stderr.flush()
    if -code in received:
        raise Interrupted(
            f"stopped by {signal.Signals(-code).name}", exit_code=128 - code, fix=f"a run that had begun goes on with: {GO_ON}"
        )
    if code < 0:
        name = signal.Signals(-code).name
        fix = f"look whether the machine ran out of memory (dmesg); then: {GO_ON}"
        raise RunStopped(f"process {failed.rank} was killed by {name}; the others were stopped", fix=fix)
    if code == PEER_LOST:
        raise RunStopped(f"process {failed.rank} lost the connection to another process, and none says why", fix=GO_ON)
    raise Ended(code, said)


def _end(started: list[Process]) -> None:
    """Kill what still runs: nothing that was saved can be lost by it."""
    for process in started:
        if process.code is None:
            process.popen.kill()
    for process in started:
        process.popen.wait()
        if process.said is not None:
            process.said.close()


@contextmanager
def signals_to(started: list[Process]) -> Iterator[list[int]]:
    """Within the context, Ctrl-C, SIGTERM and a closed terminal reach the processes, which save and end; yields what came.

    Args:
        started: The processes; more may be added.
    """
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        sent = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        received.append(sent)
        for process in started:
            if process.code is None:
                process.popen.send_signal(sent)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, forward)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _free_port() -> Iterator[int]:
    """Yield a port that nobody else is given within the context; who knows it may listen on it."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield int(kept.getsockname()[1])
