"""Ctrl-C and SIGTERM: the first asks the run to stop after saving, the second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from luthier.core.errors import STOP_CODES

_under_way: list[StopSignal] = []


class StopRequested(Exception):
    """Raised inside an evaluation that is cut short because somebody asked the run to stop."""


class StopSignal:
    """Within its context, remembers that Ctrl-C or SIGTERM came; outside the main thread only `ask_to_stop` reaches it.

    Args:
        agree: Returns the largest of the numbers of all processes, so that all stop after the same step.
    """

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        self.received: int | None = None
        self._agree = agree
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_CODES:
                self._before[number] = signal.signal(number, self._remember)
        _under_way.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _under_way.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """Exit code that says which signal came."""
        assert self.received is not None
        return STOP_CODES[signal.Signals(self.received)]

    def is_agreed(self) -> bool:
        """Whether a signal came to any process; all processes ask at the same place."""
        agreed = self._agree(self.received or 0)
        self.received = self.received or agreed or None
        return agreed > 0

    def check(self) -> None:
        """Raise StopRequested if a signal came to this process."""
        if self.received is not None:
            raise StopRequested

    def check_together(self) -> None:
        """Raise StopRequested if a signal came to any process; all processes ask at the same place."""
        if self.is_agreed():
            raise StopRequested

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            before = self._before.get(number)
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt
        self.received = number


def ask_to_stop(number: int) -> bool:
    """Do what a signal does, for trainings in threads, which signals do not reach; returns whether one is under way.

    Args:
        number: The signal, SIGINT or SIGTERM.
    """
    for stop in list(_under_way):
        stop.received = stop.received or number
    return bool(_under_way)
