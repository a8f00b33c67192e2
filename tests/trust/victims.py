"""What the children of the zygote do: train by the command line, and say in shared memory where they are."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START, STEP, SAVE, ROTATE, FINISH = PHASES = range(5)
PHASE_NAMES = ("starting", "between steps", "inside a save", "inside a rotation", "finishing")
LAYOUT = struct.Struct("<qqd")  # where the process is; step of the last checkpoint whose save returned; seconds that save took


class Marks:
    """Three numbers in a file that is mapped into memory: they outlive the process that wrote them.

    Args:
        path: The file; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(LAYOUT.pack(START, 0, 0.0))
        with path.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), LAYOUT.size)

    @property
    def phase(self) -> int:
        """Where the process is."""
        return LAYOUT.unpack(self._memory)[0]

    @phase.setter
    def phase(self, phase: int) -> None:
        struct.pack_into("<q", self._memory, 0, phase)

    @property
    def acknowledged(self) -> int:
        """Step of the last checkpoint whose save returned."""
        return LAYOUT.unpack(self._memory)[1]

    @acknowledged.setter
    def acknowledged(self, step: int) -> None:
        struct.pack_into("<q", self._memory, 8, step)

    @property
    def save_seconds(self) -> float:
        """How long the last save took."""
        return LAYOUT.unpack(self._memory)[2]

    @save_seconds.setter
    def save_seconds(self, seconds: float) -> None:
        struct.pack_into("<d", self._memory, 16, seconds)


def train(arguments: list[str], marks: str) -> int:
    """Run `luthier train` with marks before and after each save, rotation and finish."""
    from luthier.cli.main import main
    from luthier.stages.results import finish
    from luthier.training import checkpoint

    marked = Marks(Path(marks))
    marked.phase = START

    def save(root: Path, saved: Any, *given: Any) -> Path:
        started = time.perf_counter()
        folder = plain_save(root, saved, *given)
        marked.save_seconds = time.perf_counter() - started
        marked.acknowledged = saved.state.step
        return folder

    plain_save = within(marked, SAVE, checkpoint.save)
    checkpoint.save = save
    checkpoint.rotate = within(marked, ROTATE, checkpoint.rotate)
    finish.finish = within(marked, FINISH, finish.finish)
    mark_first_step(marked)
    return main(["train", *arguments])


def within(marked: Marks, phase: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, marked as a phase."""

    def marked_call(*given: Any, **named: Any) -> Any:
        marked.phase = phase
        try:
            return call(*given, **named)
        finally:
            marked.phase = STEP

    return marked_call


def mark_first_step(marked: Marks) -> None:
    """Mark when the first step begins."""
    from luthier.training.step_rules.accumulate import Accumulate

    right = Accumulate.gradient

    def gradient(*given: Any, **named: Any) -> dict[str, float]:
        marked.phase = STEP
        return right(*given, **named)

    Accumulate.gradient = gradient  # type: ignore[method-assign]
