"""Files that are whole or not there: write aside, flush, rename, flush the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from luthier.core.errors import GO_ON, RunStopped


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` in one step: a reader sees the old or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
        sync(path.parent)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path) from error
        raise


def write_json(path: Path, data: Any) -> None:
    """Replace the file at `path` by `data` as indented JSON; NaN and infinity become null."""
    write_text(path, json.dumps(finite(data), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Replace the file at `path` by one JSON object a line."""
    write_text(path, "".join(json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path) -> list[Any]:
    """Read one JSON object a line; a last line that was cut by a kill is left out."""
    rows: list[Any] = []
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def make_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` appear whole, by filling a folder beside it and renaming.

    Args:
        path: The folder to make; an older one at the same place is replaced.
        fill: Writes the files into the folder it is handed.

    Raises:
        RunStopped: if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        fill(aside)
        for file in sorted(aside.rglob("*"), reverse=True):
            sync(file)
        sync(aside)
        _swap(aside, path)
        sync(path.parent)
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(path) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(old)
    new.rename(path)
    shutil.rmtree(old)


def sweep(folder: Path) -> None:
    """Remove what a kill in the middle of `write_text` or `make_folder` left in a folder that no process is writing into."""
    for path in folder.iterdir():
        if re.fullmatch(r"\..+\.\d+\.(tmp|old)", path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that no space is left; safetensors says it in words, with an error of its own."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


class DiskFull(RunStopped):
    """A file of a run did not fit on the disk; what was there before is untouched."""


def disk_full(path: Path) -> DiskFull:
    """Return what to say where a file of a run did not fit on the disk."""
    return DiskFull("the disk is full", where=str(path), fix=f"free some space; then: {GO_ON}")


def finite(data: Any) -> Any:
    """Return `data` with every NaN or infinite number as None, so that it is JSON."""
    if isinstance(data, float):
        return data if data == data and abs(data) != float("inf") else None
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return data
