"""What safetensors files hold, read off their headers: no weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it


def shapes_in(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the name and the shape of each tensor of a file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no safetensors file.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError("not a safetensors file")
        header = json.loads(stream.read(length))
    yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")
