"""The log of a run: every tick and event, one JSON object a line, in `events.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.core.errors import RunStopped
from luthier.core.tick import Tick


class EventLog:
    """Appends to `events.jsonl`; after a resume the lines of steps that are done again are taken out.

    Args:
        path: The file.
        from_step: Ticks after this step are removed.
    """

    def __init__(self, path: Path, *, from_step: int = 0) -> None:
        self._path = path
        if path.is_file():
            lines = [line for line in files.read_json_lines(path) if line.get("step", 0) <= from_step]
            files.write_json_lines(path, lines)
        self._stream = path.open("a", encoding="utf-8")

    def tick(self, tick: Tick) -> None:
        """Write one tick."""
        self._write(tick.as_dict())

    def event(self, name: str, **facts: Any) -> None:
        """Write something that is not a step: a resume, a saved checkpoint, a stop."""
        self._write({"event": name, **facts})

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, data: dict[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(files.finite(data), ensure_ascii=False, allow_nan=False) + "\n")
            self._stream.flush()
        except OSError as error:
            raise RunStopped(f"the log cannot be written: {error.strerror}", where=str(self._path)) from error
