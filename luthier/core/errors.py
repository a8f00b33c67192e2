"""The kinds of error a user can meet.

Four kinds are the user's to mend (`UserError` and below, exit code 2); `RunStopped` means that the run stopped itself to
protect the work (exit code 3); `Interrupted` means somebody asked it to stop (130 or 143). Anything else is our bug.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

STOP_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
GO_ON = "luthier train --resume RUN"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


class LuthierError(Exception):
    """Base of every error that is shown without a traceback.

    Args:
        what: What was got and what was wanted, in one or two sentences.
        where: The file, row, key or option concerned.
        fix: What to change, as something the user can type.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  to fix: {self.fix}")
        return "\n".join(lines)


class UserError(LuthierError):
    """Something the user can mend."""

    exit_code = 2


class DataError(UserError):
    """The data is missing, unreadable or does not fit the task."""


class SetupError(UserError):
    """The machine or the environment lacks something."""


@dataclass(frozen=True)
class Fault:
    """One fault of a recipe: `path` is the dotted key, `message` what is wrong, `fix` the nearest right thing."""

    path: str
    message: str
    fix: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f" ({self.fix})" if self.fix else "")


class ConfigError(UserError):
    """A recipe or an option is wrong; carries every fault found, not only the first."""

    def __init__(self, faults: list[Fault], *, where: str | None = None) -> None:
        self.faults = faults
        head = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(head + ":\n" + "\n".join(f"  - {fault}" for fault in faults), where=where)


def refuse(checks: Iterable[tuple[str, bool, str, str]]) -> None:
    """Raise everything that is wrong at once, if anything is.

    Args:
        checks: The dotted key, whether it is wrong, what is wrong then, and what to change.

    Raises:
        ConfigError: if something is wrong.
    """
    faults = [Fault(key, what, fix) for key, is_wrong, what, fix in checks if is_wrong]
    if faults:
        raise ConfigError(faults)


class RunStopped(LuthierError):
    """The run stopped itself: diverged, no disk, no memory. What was saved stays."""

    exit_code = 3


class ProcessLost(RunStopped):
    """Another process of the run ended; its own error says why."""


class Interrupted(LuthierError):
    """Ctrl-C (130) or SIGTERM (143), after the state was saved."""

    def __init__(self, what: str, *, exit_code: int, fix: str | None = None) -> None:
        self.exit_code = exit_code
        super().__init__(what, fix=fix)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of an outside package says that memory ran out, on the processor or an accelerator."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
