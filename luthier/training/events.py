"""The log of a run: every tick and event in `events.jsonl` and, where wanted, the rows of every step in `ledger.jsonl`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core.lines import GrowingLines
from luthier.core.tick import Tick
from luthier.training.patience import until_written


class EventLog:
    """Appends to both files, one JSON object a line; after a resume the lines of steps that are done again are taken out.

    Args:
        path: The file of ticks and events, or None to write nothing.
        ledger: The file of rows, or None to write none.
        from_step: Lines of later steps are removed.
        check: Called while the disk is full; may raise to give up.
    """

    def __init__(
        self, path: Path | None, *, ledger: Path | None = None, from_step: int = 0, check: Callable[[], None] = lambda: None
    ) -> None:
        self._check = check
        self._events, self._ledger = self._open(path, from_step), self._open(ledger, from_step)

    def tick(self, tick: Tick) -> None:
        """Write one tick."""
        self._append(self._events, tick.as_dict())

    def event(self, name: str, **facts: Any) -> None:
        """Write something that is not a step: a resume, a saved checkpoint, a stop."""
        self._append(self._events, {"event": name, **facts})

    def rows(self, step: int, epoch: int, ids: Callable[[], list[int]]) -> None:
        """Write the sample ids of one step into the ledger, if there is one."""
        if self._ledger is not None:
            self._append(self._ledger, {"step": step, "epoch": epoch, "ids": ids()})

    def settle(self) -> None:
        """Flush both files to the disk, as before a checkpoint that relies on their lines."""
        for lines in (self._events, self._ledger):
            if lines is not None:
                lines.sync()

    def close(self) -> None:
        """Close both files."""
        for lines in (self._events, self._ledger):
            if lines is not None:
                lines.close()

    def _open(self, path: Path | None, from_step: int) -> GrowingLines | None:
        if path is None:
            return None
        return until_written(lambda: GrowingLines(path, from_step=from_step), path.parent, check=self._check)

    def _append(self, lines: GrowingLines | None, data: dict[str, Any]) -> None:
        """Write one line; waits while the disk is full."""
        if lines is not None:
            until_written(lambda: lines.append(data), lines.path.parent, check=self._check)
