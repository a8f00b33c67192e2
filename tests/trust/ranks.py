"""Several processes that train together, as forks of the zygote: what a launcher does, without its imports.

Each is told by the usual variables which one it is, and runs the real command line or another function of ranked.py.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from forks import zygote

PATIENCE_SECONDS = 180.0


class Ended(NamedTuple):
    """Exit codes and words of processes, by rank, and the seconds until the last one ended."""

    codes: list[int]
    said: list[str]
    seconds: float


class Group:
    """Processes of one run.

    Args:
        folder: For what they say.
        size: How many.
        address: Where they are told to meet.
    """

    def __init__(self, folder: Path, size: int, *, address: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._said = [folder / f"said-{size}-{rank}.txt" for rank in range(size)]
        for said in self._said:
            said.write_text("")
        self.address, self.port = address, _free_port()
        self.size = size
        self.processes: list[int] = []

    def start(self, call: str, *arguments: Any) -> Group:
        """Start `call` in each; none waits for another here."""
        for rank in range(self.size):
            self.start_one(rank, call, *arguments)
        return self

    def start_one(self, rank: int, call: str, *arguments: Any) -> Group:
        """Start `call` in one of them."""
        where = {"MASTER_ADDR": self.address, "MASTER_PORT": str(self.port), "WORLD_SIZE": str(self.size)}
        self.processes.append(zygote().start("ranked:become", rank, where, call, arguments, said=self._said[rank]))
        return self

    def wait(self) -> Ended:
        """Wait for the end of all."""
        started, codes = time.monotonic(), []
        for process in self.processes:
            code = zygote().wait(process, max(1.0, PATIENCE_SECONDS - (time.monotonic() - started)))
            if code is None:
                os.kill(process, signal.SIGKILL)
                zygote().wait(process)
            codes.append(-99 if code is None else code)
        return Ended(codes, [said.read_text() for said in self._said], time.monotonic() - started)

    def saying(self, rank: int) -> str:
        """What a process said until now."""
        return self._said[rank].read_text()


def together(folder: Path, size: int, call: str, *arguments: Any) -> Ended:
    """Run a call in several processes to its end."""
    return Group(folder, size).start(call, *arguments).wait()


def all_well(folder: Path, size: int, call: str, *arguments: Any) -> Ended:
    """Run a call in several processes, all of which must end well."""
    ended = together(folder, size, call, *arguments)
    assert ended.codes == [0] * size, "\n".join(ended.said)[-4000:]
    return ended


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
