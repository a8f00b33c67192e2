"""Where each split comes from, and in which format."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.files import sha256_file
from luthier.core.names import nearest
from luthier.data.formats import formats
from luthier.data.formats.format import Format
from luthier.data.section import DataSection

SPLITS = ("train", "validation", "test")


def find_sources(section: DataSection) -> dict[str, str]:
    """Return the source of each split: those that are named, and those found beside the training rows in one folder.

    Args:
        section: The `data` section of the recipe.

    Raises:
        DataError: if no source is named, or one does not exist.
    """
    given = {name: str(Path(source).expanduser()) for name in SPLITS if (source := getattr(section, name))}
    if not given:
        raise DataError("no data is named", where="data.train", fix="data.train=reviews.csv, or --data reviews.csv")
    found: dict[str, str] = {}
    for name, source in given.items():
        parts = find_format(source, section).splits(source)
        if parts and name not in parts:
            raise DataError(f"'{source}' has no split '{name}'; it has {', '.join(parts)}", where=f"data.{name}")
        found |= {part: inside for part, inside in parts.items() if name == "train" and part not in given}
        found[name] = parts.get(name, source)
    if section.split.fold is not None:
        found.pop("test", None)  # of a folder with splits inside: a fold measures
    return {name: found[name] for name in SPLITS if name in found}


def find_format(source: str, section: DataSection) -> type[Format]:
    """Return the format of a source: the one the recipe names, or the one that recognises it.

    Args:
        source: A file, a folder or a hub id.
        section: The `data` section of the recipe.

    Raises:
        DataError: if there is no such file or folder, or its format is unknown.
    """
    path = Path(source)
    if not path.exists() and section.format != "hub":
        if section.format != "auto" or _looks_like_path(path, source):
            raise _missing(path)
        return formats.get("hub")
    if section.format != "auto":
        return formats.get(section.format)
    for name in formats.names():
        if formats.get(name).recognises(path):
            return formats.get(name)
    raise _unknown_folder(path) if path.is_dir() else _unknown_ending(path)


def contents(source: str) -> dict[str, Any]:
    """Return the sha256 and the size in bytes of a file, or of all files of a folder; nothing for a hub id.

    Args:
        source: A file, a folder or a hub id.
    """
    path = Path(source)
    if path.is_file():
        return {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    if not path.is_dir():
        return {}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n".encode())
    return {"sha256": digest.hexdigest(), "bytes": sum(file.stat().st_size for file in files), "files": len(files)}


def known_endings() -> list[str]:
    """Return the endings of file names that are recognised."""
    return [ending for name in formats.names() for ending in formats.get(name).endings]


def _looks_like_path(path: Path, source: str) -> bool:
    """Tell a missing file from a hub id (`name` or `user/name`)."""
    suffix = path.suffix[1:]
    return (
        path.is_absolute()
        or source.startswith(".")
        or len(path.parts) > 2
        or (2 <= len(suffix) <= 7 and suffix.isalpha())
        or (len(path.parts) == 2 and path.parent.is_dir())
    )


def _missing(path: Path) -> DataError:
    if not path.parent.is_dir():
        return DataError(f"no such file: '{path}' (the folder '{path.parent}' does not exist)", fix="check the path")
    there = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    close = nearest(path.name, there)
    fix = "did you mean " + " or ".join(f"'{path.parent / name}'" for name in close) + "?" if close else "check the path"
    return DataError(f"no such file or folder: '{path}'", fix=fix)


def _unknown_ending(path: Path) -> DataError:
    known = ", ".join(known_endings())
    return DataError(
        f"the ending of '{path.name}' tells no format; known: {known}, each also with .gz for text",
        where="data.format",
        fix="save the rows as CSV, or say what the file is with data.format=csv",
    )


def _unknown_folder(path: Path) -> DataError:
    inside = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    listed = ", ".join(inside[:8]) + (" ..." if len(inside) > 8 else "") if inside else "nothing"
    return DataError(
        f"the folder '{path}' holds {listed}; wanted one folder of .txt files for each class, or what datasets' save_to_disk writes",
        fix="name one file in it, such as data.train=" + str(path / next((name for name in inside if "." in name), "reviews.csv")),
    )
