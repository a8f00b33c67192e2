"""A small disk that can be filled to the byte, and commands that fill it themselves at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interrupted import PATIENCE_SECONDS, Place, hook

MIB = 2**20
MOMENTS = {
    "a checkpoint": Place("enter", "luthier.training.checkpoint:save", 2),
    "the event log": Place("enter", "luthier.core.lines:GrowingLines.append", 4),
    "model/": Place("enter", "luthier.stages.results.finish:finish"),
    "the pages": Place("enter", "luthier.stages.results.finish:write_report"),
}


class Disk:
    """A file system of its own.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    @property
    def free_bytes(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Take all space but some bytes, while others may be writing too."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT)
        try:
            while (taken := self.free_bytes - leave) > 0:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, taken)
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def mounted(path: Path, *, mib: int) -> Iterator[Disk | None]:
    """A disk in memory of some MiB, or None where this user may not mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)]
    try:
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    try:
        yield Disk(path) if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", str(path)], check=True)


def train(arguments: list[str], disk: str, moment: str | None, leave: int) -> int:
    """In a fork: run `luthier ARGUMENTS`, and fill the disk at a moment."""
    if moment in MOMENTS:
        hook(MOMENTS[moment], lambda: Disk(Path(disk)).fill(leave=leave))
    from luthier.cli.main import main

    return main(arguments)


def wait_for_words(said: Path, words: str, process: int) -> float | None:
    """Wait until a command has said something; returns when that was seen, or None where it ended without saying it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        is_over = has_ended(process)
        if words in " ".join(said.read_text(encoding="utf-8").split()):
            return time.monotonic()
        if is_over:
            return None
        time.sleep(0.01)
    raise AssertionError(f"'{words}' was never said: {said.read_text()[-2000:]}")


def has_ended(process: int) -> bool:
    """Whether a fork has ended and waits to be waited for."""
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
