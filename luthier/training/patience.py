"""A full disk pauses a run; it does not end it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from luthier.core.files import DiskFull
from luthier.core.machine import free_disk_bytes

log = logging.getLogger("luthier")
T = TypeVar("T")
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_TRIES = 5.0
MIB = 2**20


def until_written(write: Callable[[], T], where: Path, *, needed: int = MIB, check: Callable[[], None] = lambda: None) -> T:
    """Write; while the disk is full, say so once, wait for space, and write again.

    Args:
        write: Writes something whole or not at all.
        where: A folder on the disk concerned.
        needed: Bytes that must be free before another try; a try is also made every 5 seconds, for quotas that cannot be seen.
        check: Called while waiting; may raise to give up.
    """
    waited_since: float | None = None
    while True:
        try:
            written = write()
        except DiskFull:
            if waited_since is None:
                waited_since = time.monotonic()
                log.warning(
                    "the disk is full: the run pauses and goes on by itself when %d MiB are free in %s; nothing saved is lost",
                    max(1, needed // MIB),
                    where,
                )
            _wait_for(where, needed, check)
        else:
            if waited_since is not None:
                log.warning("there is space again: going on after %.0f s", time.monotonic() - waited_since)
            return written


def _wait_for(where: Path, needed: int, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + SECONDS_BETWEEN_TRIES
    while time.monotonic() < deadline:
        check()
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if free_disk_bytes(where) >= needed:
            return
