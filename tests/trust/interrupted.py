"""The real command line in a fork, stopped by real signals in a chosen phase.

A child says when a phase begins and when it ends, so that a signal can be sent inside it, and be known to have come inside it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from forks import zygote

PATIENCE_SECONDS = 120.0
STEP_AIMED_AT = 5
EACH = "each phase"
GRADIENT = "luthier.training.step_rules.accumulate:Accumulate.gradient"


class Place(NamedTuple):
    """A moment of a run: where a function is entered or left, the first time or a later one."""

    edge: str
    name: str
    call: int = 1


def whole(name: str, call: int = 1) -> tuple[Place, Place]:
    """From the beginning to the end of one call."""
    return Place("enter", name, call), Place("leave", name, call)


PHASES: dict[str, tuple[Place, Place]] = {
    "data preparation": whole("luthier.tasks.text.preparation:_fill"),
    "warm-up": (Place("enter", "luthier.stages.running.train:lay_out"), Place("leave", "luthier.stages.running.train:start_head")),
    "training": (Place("enter", GRADIENT, STEP_AIMED_AT), Place("enter", "luthier.stages.results.finish:finish")),
    "training with 2 loader workers": (Place("enter", GRADIENT, STEP_AIMED_AT), Place("enter", "luthier.stages.results.finish:finish")),
    "evaluation": whole("luthier.stages.running.train:Trainer._validation_scores", call=2),
    "save": whole("luthier.training.checkpoint:save", call=2),
    "finish": whole("luthier.stages.results.finish:finish"),
    "one long step": whole(GRADIENT, call=STEP_AIMED_AT),
}


@dataclass
class Ended:
    """How one command ended.

    Args:
        exit_code: Its exit code; minus the number of a signal that killed it.
        said: Standard output and error.
        seconds: From the last signal to the exit.
        is_inside: Whether the signal came within the phase.
        notes: When the phase began and ended, and a signal was taken up.
    """

    exit_code: int
    said: str
    seconds: float
    is_inside: bool
    notes: dict[str, float] = field(default_factory=dict)


class Commands:
    """Runs `luthier ARGUMENTS` in forks, one after the other.

    Args:
        folder: For what they say.
    """

    def __init__(self, folder: Path) -> None:
        self._said, self._fifo = folder / "said.txt", folder / "notes"
        os.mkfifo(self._fifo)
        self._notes = os.open(self._fifo, os.O_RDWR)
        self._rest = b""

    def learn_imports(self, *arguments: str) -> int:
        """Run a command, and let later ones begin with everything imported that it needed."""
        return zygote().run("interrupted:command", list(arguments), None, str(self._fifo), said=self._said)

    def start(self, *arguments: str, phase: str | None = None) -> int:
        """Start a command; returns its process id."""
        self._said.write_text("")
        return zygote().start("interrupted:command", list(arguments), phase, str(self._fifo), said=self._said)

    def wait(self, process: int) -> tuple[int, str]:
        """Wait for the end of a command; returns its exit code and what it said."""
        code = zygote().wait(process, PATIENCE_SECONDS)
        if code is None:
            os.kill(process, signal.SIGKILL)
            zygote().wait(process)
        assert code is not None, f"it does not end: {self._said.read_text()[-2000:]}"
        return code, self._said.read_text(encoding="utf-8")

    def run(self, *arguments: str, phase: str | None = None) -> Ended:
        """Run a command to its end, with the times at which the phase began and ended."""
        code, said = self.wait(self.start(*arguments, phase=phase))
        return Ended(code, said, 0.0, False, self._rest_of_notes())

    def seconds_of_phases(self, *arguments: str) -> dict[str, float]:
        """Run a command to its end; returns how long each phase took."""
        done = self.run(*arguments, phase=EACH)
        assert done.exit_code == 0, done.said
        return {phase: done.notes[f"{phase}/end"] - done.notes[f"{phase}/begin"] for phase in PHASES if phase != "one long step"}

    def stop(self, number: int, *arguments: str, phase: str, after: float) -> Ended:
        """Send a signal some seconds after a phase began; a Ctrl-C goes to the whole process group, as from a terminal."""
        process = self.start(*arguments, phase=phase)
        notes = self._until("begin", process)
        time.sleep(max(0.0, notes["begin"] + after - time.monotonic()))
        sent = time.monotonic()
        send(process, number)
        code, said = self.wait(process)
        seconds = wait_for_group(process) - sent
        notes |= self._rest_of_notes()
        return Ended(code, said, seconds, notes.get("end", sent) >= sent, notes)

    def stop_twice(self, *arguments: str) -> Ended:
        """Send Ctrl-C in a step that does not end, and once more when the first was taken up."""
        process = self.start(*arguments, phase="one long step")
        self._until("begin", process)
        send(process, signal.SIGINT)
        self._until("received", process)
        sent = time.monotonic()
        send(process, signal.SIGINT)
        code, said = self.wait(process)
        return Ended(code, said, time.monotonic() - sent, True, self._rest_of_notes())

    def _until(self, note: str, process: int) -> dict[str, float]:
        """Read notes up to one of a name; a child that ends without it is an error."""
        found: dict[str, float] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while note not in found:
            if self._rest or select.select([self._notes], [], [], 0.5)[0]:
                found |= self._next_notes()
            elif time.monotonic() > deadline or zygote().wait(process, 0.0) is not None:
                raise AssertionError(f"'{note}' never came: {self._said.read_text()[-2000:]}")
        return found

    def _rest_of_notes(self) -> dict[str, float]:
        """What was noted and not read yet; the child is gone, so nothing more can come."""
        found: dict[str, float] = {}
        while select.select([self._notes], [], [], 0)[0]:
            found |= self._next_notes()
        return found

    def _next_notes(self) -> dict[str, float]:
        *lines, self._rest = (self._rest + os.read(self._notes, 4096)).split(b"\n")
        return {name.decode(): float(when) for name, when in (line.rsplit(maxsplit=1) for line in lines)}


def send(process: int, number: int) -> None:
    """Send a signal; a process that has just ended takes none."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if number == signal.SIGINT else os.kill)(process, number)


def wait_for_group(process: int) -> float:
    """Wait until no process of the group is left, such as a worker of a loader; returns when that was seen."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(process, 0)
        except ProcessLookupError:
            return time.monotonic()
        time.sleep(0.01)
    raise AssertionError("the command has ended, but not every process that it started")


def command(arguments: list[str], phase: str | None, fifo: str) -> int:
    """In a fork: run `luthier ARGUMENTS`, and note when the phase begins and ends."""
    notes = os.open(fifo, os.O_WRONLY)

    def note(name: str) -> Callable[[], object]:
        return lambda: os.write(notes, f"{name} {time.monotonic()}\n".encode())

    if phase == EACH:
        for name, (begin, end) in PHASES.items():
            hook(begin, note(f"{name}/begin"))
            hook(end, note(f"{name}/end"))
    elif phase:
        begin, end = PHASES[phase]
        if phase == "one long step":
            hook(begin, lambda: time.sleep(PATIENCE_SECONDS))
        hook(begin, note("begin"))
        hook(end, note("end"))
    hook(Place("leave", "luthier.training.signals:StopSignal._remember"), note("received"))
    from luthier.cli.main import main

    return main(arguments)


def hook(place: Place, do: Callable[[], object]) -> None:
    """Do something at a moment of the run."""
    module, _, path = place.name.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for class_ in classes:
        owner = getattr(owner, class_)
    right, calls = getattr(owner, name), [0]

    def hooked(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        is_now = calls[0] == place.call
        if is_now and place.edge == "enter":
            do()
        result = right(*given, **named)
        if is_now and place.edge == "leave":
            do()
        return result

    setattr(owner, name, hooked)
