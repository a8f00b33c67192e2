"""Notice that other processes keep the cores busy: threads that wait for each other then lose most of the time, and the user is told.

Threads of one matrix product meet at its end. Where a core is taken by somebody else, the thread on it comes late, and the others
spin, which takes from the late one the very core it waits for. Linux only; elsewhere nothing is said.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from luthier.core.machine import available_cores

log = logging.getLogger("luthier")
SECONDS_BETWEEN_LOOKS = 5.0
SHORTEST = 1.0  # seconds; the kernel counts in hundredths, so less would tell little
LEAST_OTHERS, SPARE = 0.5, 0.25  # cores that others must use to be worth a word; cores by which they and we may overlap
IN_A_ROW = 2
STAT = Path("/proc/stat")
LIMITS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@dataclass(frozen=True)
class Reading:
    """Seconds at one moment: of the clock, of work on the cores that this process may use, and of work of this process."""

    clock: float
    busy: float
    own: float


def look() -> Reading | None:
    """Return what the clocks say now, or None where the system does not tell."""
    try:
        lines = STAT.read_text().splitlines()
        allowed = os.sched_getaffinity(0)
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    busy = 0
    for line in lines:
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
            user, nice, system, _, _, irq, softirq = map(int, numbers[:7])
            busy += user + nice + system + irq + softirq
    return Reading(time.monotonic(), busy / ticks, time.process_time()) if busy else None


class Crowd:
    """Looks now and then at what other processes take of the cores, and says it once.

    Args:
        threads: Threads of the matrix library.
        cores: Cores that this process may use.
        look: Reads the clocks.
    """

    def __init__(self, threads: int, *, cores: int | None = None, look: Callable[[], Reading | None] = look) -> None:
        self._threads, self._cores, self._look = threads, cores or available_cores(), look
        self._last = look()
        self._in_a_row, self._said = 0, False
        self._seconds, self._tokens, self._calm = 0.0, 0.0, 0.0

    def begin(self) -> None:
        """Judge the time since this object was made, before the first step."""
        others = self._others()
        if others is not None and self._is_crowded(others):
            self._say(others, "")

    def step(self, seconds: float, tokens: float) -> None:
        """Note a step, and every five seconds judge; two crowded looks in a row are said.

        Args:
            seconds: Time of the step.
            tokens: Tokens of the step.
        """
        if self._said or self._last is None:
            return
        self._seconds, self._tokens = self._seconds + seconds, self._tokens + tokens
        if self._seconds < SECONDS_BETWEEN_LOOKS:
            return
        others = self._others()
        if others is None:
            return
        pace = self._seconds / max(self._tokens, 1)
        self._seconds, self._tokens = 0.0, 0.0
        if not self._is_crowded(others):
            self._in_a_row, self._calm = 0, min(pace, self._calm or pace)
            return
        self._in_a_row += 1
        if self._in_a_row == IN_A_ROW:
            self._say(others, f"; a token takes {pace / self._calm:.1f} times as long as before" if self._calm else "")

    def _others(self) -> float | None:
        """Return how many cores other processes used since the last look, or None where that is too short ago to tell."""
        now = self._look()
        if self._last is None or now is None or now.clock - self._last.clock < SHORTEST:
            return None
        before, self._last = self._last, now
        return max(0.0, (now.busy - before.busy - now.own + before.own) / (now.clock - before.clock))

    def _is_crowded(self, others: float) -> bool:
        return self._threads > 1 and others >= LEAST_OTHERS and self._threads + others > self._cores + SPARE

    def _say(self, others: float, slower: str) -> None:
        self._said = True
        spins = not any(os.environ.get(name) for name in LIMITS)
        fix = "set OMP_WAIT_POLICY=passive before the start, or training.threads=1, or wait" if spins else "wait for them, or stop them"
        log.warning(
            "the machine is busy: other processes use %.1f of its %d cores, and %d threads wait for each other%s; to fix: %s",
            others, self._cores, self._threads, slower, fix,
        )  # fmt: skip
