"""The manifest of a checkpoint: size and sha256 of every file, and of itself; it tells whether all is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from luthier.core.errors import SetupError
from luthier.core.files import sha256_file

FORMAT = 2  # 1: no checksum of the manifest itself, and fewer entries in the identity
MANIFEST = "manifest.json"
Signature = tuple[tuple[str, int, int, int], ...]
_whole: dict[Path, Signature] = {}


def contents(folder: Path) -> list[Path]:
    """Return the files of a checkpoint, folders inside it included, without the manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def seal(folder: Path, step: int) -> None:
    """Write and flush the manifest of a folder whose files are all there."""
    entries = {file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": sha256_file(file)} for file in contents(folder)}
    with (folder / MANIFEST).open("wb") as stream:
        stream.write(_text({"format": FORMAT, "step": step, "files": entries}).encode())
        stream.flush()
        os.fsync(stream.fileno())


def fault_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if every file is as it was written.

    Raises:
        SetupError: if it is whole, but of a format that only a newer Luthier knows.
    """
    try:
        manifest = _read(folder)
        fault = _misnamed(folder, manifest) or _changed(folder, manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    if fault is None:
        note_whole(folder)
    return fault


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint verifies; one that this process wrote or verified, and nobody touched since, is not read again."""
    try:
        return _whole.get(folder) == _signature(folder) or fault_of(folder) is None
    except (OSError, SetupError):
        return False


def note_whole(folder: Path) -> None:
    """Remember that a checkpoint was just written or verified."""
    _whole[folder] = _signature(folder)


def forget() -> None:
    """Remember nothing, as a new process does."""
    _whole.clear()


def _text(body: dict[str, Any]) -> str:
    """Return the manifest with its own sha256: its only spelling, so that no byte of it can change unseen."""
    digest = hashlib.sha256(json.dumps(body, indent=2).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=2) + "\n"


def _read(folder: Path) -> dict[str, Any]:
    text = (folder / MANIFEST).read_bytes().decode()  # as bytes, because reading text takes \r for \n
    manifest: dict[str, Any] = json.loads(text)
    has_own_digest = manifest.pop("sha256", None) is not None
    if has_own_digest or manifest["format"] != 1:
        if text != _text(manifest):
            raise ValueError("it differs from its own sha256")
        if manifest["format"] > FORMAT:
            raise SetupError(
                f"{folder.name} was written by a newer Luthier: its format is {manifest['format']}, this one knows 1 to {FORMAT}",
                where=str(folder),
                fix="update Luthier, or go on with the version that began the run (environment.json says which)",
            )
    return manifest


def _misnamed(folder: Path, manifest: dict[str, Any]) -> str | None:
    if folder.name.lstrip(".").removeprefix("step-").partition(".")[0] == f"{manifest['step']:08d}":
        return None
    return f"it holds step {manifest['step']}"


def _changed(folder: Path, entries: dict[str, Any]) -> str | None:
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["size"]:
            return f"{name} has {file.stat().st_size} bytes, wanted {entry['size']}"
        if sha256_file(file) != entry["sha256"]:
            return f"{name} differs from its sha256"
    added = [
        name for file in contents(folder) if (name := file.relative_to(folder).as_posix()) not in entries and not file.name.startswith(".")
    ]
    return f"{added[0]} is not in {MANIFEST}" if added else None


def _signature(folder: Path) -> Signature:
    found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in found)
