"""Faults at any file-system call: the process dies there, or the call fails with an error of the disk.

Calls are counted from 1 while `Faults` is active: opening (for reading too), writing, flushing, making, renaming, removing and listing,
and the calls by which safetensors writes a file in native code. A write that is hit leaves half of what was to be written. Flushing is
only counted and not done, which no dying process would notice; that it is asked for in the right order is a test of its own.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from unittest import mock

from luthier.training.checkpoint import optimiser_files, saved

KILLED = 137
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
PLAIN_CALLS = ("open", "fsync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir", "scandir", "ftruncate")
NATIVE_CALLS = ((saved, "save_model"), (saved, "save_file"), (optimiser_files, "save_file"))


class Killed(BaseException):
    """What a process that is only thought of dies of: from here on none of its calls has an effect."""


@dataclass
class Faults:
    """Counts calls, and lets one of them fail.

    Args:
        at: Number of the call that fails; 0 only counts.
        how: `exit` (the process ends), `killed` (a Killed that comes again at every later call), `EIO` or `ENOSPC`.
    """

    at: int = 0
    how: str = "exit"
    calls: int = 0
    trace: list[tuple[str, str]] = field(default_factory=list)

    @property
    def happened(self) -> bool:
        return 0 < self.at <= self.calls

    def call(self, name: str, where: object, halve: Callable[[], Any] | None = None) -> None:
        """Count a call, and fail if it is its turn.

        Args:
            name: What is called.
            where: On which file or folder.
            halve: Does half of it first.
        """
        self.calls += 1
        self.trace.append((name, str(where)))
        if self.calls == self.at or (self.how == "killed" and self.happened):
            if halve is not None and self.calls == self.at:
                halve()
            self._fail(name, where)

    def _fail(self, name: str, where: object) -> NoReturn:
        if self.how == "exit":
            os._exit(KILLED)
        if self.how == "killed":
            raise Killed
        raise OSError(ERRORS[self.how], f"{os.strerror(ERRORS[self.how])} (call {self.at}: {name})", str(where))

    @contextmanager
    def active(self) -> Iterator[Faults]:
        """Put every call under watch."""
        with ExitStack() as stack:
            for name in PLAIN_CALLS:
                plain = getattr(os, name) if name != "fsync" else lambda descriptor: None
                stack.enter_context(mock.patch.object(os, name, self._watched(name, plain)))
            opened = self._opened(io.open)
            for module in (io, builtins):
                stack.enter_context(mock.patch.object(module, "open", opened))
            for module, name in NATIVE_CALLS:
                stack.enter_context(mock.patch.object(module, name, self._native(name, getattr(module, name))))
            yield self

    def _watched(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.call(name, given[0] if name != "fsync" else os.readlink(f"/proc/self/fd/{given[0]}"))
            return plain(*given, **named)

        return call

    def _opened(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
            self.call("open", file)
            stream = plain(file, mode, *given, **named)
            return stream if mode.startswith("r") else WatchedStream(stream, self)

        return call

    def _native(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(what: Any, path: Any, *given: Any, **named: Any) -> Any:
            self.call(f"before {name}", path)
            result = plain(what, path, *given, **named)
            self.call("write", path, halve=lambda: os.truncate(path, os.path.getsize(path) // 2))
            return result

        return call


class WatchedStream:
    """A stream whose every write is a call that may fail half way."""

    def __init__(self, stream: Any, faults: Faults) -> None:
        self._stream, self._faults = stream, faults

    def write(self, data: Any) -> int:
        def halve() -> None:
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()

        self._faults.call("write", self._stream.name, halve)
        return self._stream.write(data)

    def __enter__(self) -> WatchedStream:
        return self

    def __exit__(self, *given: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
