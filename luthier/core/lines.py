"""A file of JSON lines that grows: each line is written whole, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from luthier.core import files


class GrowingLines:
    """Appends JSON objects to a file.

    Args:
        path: The file.
        from_step: Lines with a later `step` are taken out first, as after a resume those steps are done again.
    """

    def __init__(self, path: Path, *, from_step: int = 0) -> None:
        self.path = path
        if path.is_file():
            files.write_json_lines(path, [line for line in files.read_json_lines(path) if line.get("step", 0) <= from_step])
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, data: dict[str, Any]) -> None:
        """Write one line; NaN and infinity become null.

        Raises:
            DiskFull: if it does not fit; nothing of it stays.
        """
        rest = memoryview((json.dumps(files.finite(data), ensure_ascii=False, allow_nan=False) + "\n").encode())
        size = os.fstat(self._descriptor).st_size
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            if files.is_disk_full(error):
                raise files.disk_full(self.path) from error
            raise

    def sync(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
