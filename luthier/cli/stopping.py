"""Ctrl-C and SIGTERM where nothing waits to be saved: the verb is left at once, whatever it was doing."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from luthier.core.errors import GO_ON, STOP_CODES, Interrupted

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
SECONDS_BETWEEN_TRIES = 0.3


class LeaveNow(BaseException):
    """Raised where the verb is when a signal comes; no Exception, so that nothing takes it for a fault to be worked around."""


class Stopping:
    """Within its context, Ctrl-C and SIGTERM raise LeaveNow, and whatever comes of it leaves the context as Interrupted.

    A library that is being imported, or native code that calls back, may swallow what is raised in it; so it is raised again and again
    until the context is left, or handed to a training loop that has begun meanwhile. Outside the main thread it does nothing.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}
        self._unraisable_before = sys.unraisablehook

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (*STOP_CODES, signal.SIGALRM):
                self._before[number] = signal.signal(number, self._leave)
            sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook = self._unraisable_before
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received is not None and error is not None and not isinstance(error, Interrupted):
            number = signal.Signals(self._received)
            raise Interrupted(
                f"stopped by {NAMES[number]}", exit_code=STOP_CODES[number], fix=f"a run that had begun goes on with: {GO_ON}"
            ) from None

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            self._received = number
        elif self._received is not None and self._is_handed_over(self._received, frame):
            return
        signal.setitimer(signal.ITIMER_REAL, SECONDS_BETWEEN_TRIES, SECONDS_BETWEEN_TRIES)
        raise LeaveNow

    def _is_handed_over(self, number: int, frame: FrameType | None) -> bool:
        """Let a training loop, which has handlers of its own, end its step and save; returns whether there is one."""
        handler = signal.getsignal(number)
        if not callable(handler) or handler == self._leave:
            return False
        signal.setitimer(signal.ITIMER_REAL, 0)
        handler(number, frame)
        return True

    def _unraisable(self, swallowed: sys.UnraisableHookArgs) -> None:
        """Say nothing where LeaveNow was swallowed: it comes again."""
        if not isinstance(swallowed.exc_value, LeaveNow):
            self._unraisable_before(swallowed)
