"""The cache of prepared data: a folder per content hash, which appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.core.errors import SetupError

FORMAT = 1


def cache_root() -> Path:
    """Return where caches are kept: LUTHIER_CACHE, else the user's cache folder."""
    named = os.environ.get("LUTHIER_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "luthier"


def content_key(facts: dict[str, Any]) -> str:
    """Return a name that changes with anything the prepared rows depend on.

    Args:
        facts: Plain data: file hashes, settings, tokenizer fingerprint.
    """
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def source_hashes(path: str | None) -> dict[str, str] | None:
    """Return the sha256 of a file, or of every file in a folder; None where `path` is neither."""
    if path is None:
        return {}
    where = Path(path).expanduser()
    if where.is_file():
        return {path: files.sha256_file(where)}
    if where.is_dir():
        return {str(file.relative_to(where)): files.sha256_file(file) for file in sorted(where.rglob("*")) if file.is_file()}
    return None


def cached_folder(key: str, fill: Callable[[Path], None], *, reuse: bool) -> tuple[Path, bool]:
    """Return the folder of `key`, filled, and whether it was there before.

    Args:
        key: Content hash.
        fill: Writes the files into the folder it is handed.
        reuse: Take the folder as it is if it exists.

    Raises:
        SetupError: if the cache cannot be written.
    """
    folder = cache_root() / "data" / key
    if reuse and folder.is_dir():
        return folder, True
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        files.make_folder(folder, fill)
    except PermissionError as error:
        raise SetupError(
            f"the cache cannot be written: {error}", where=str(folder), fix="set LUTHIER_CACHE to a folder of yours"
        ) from error
    return folder, False
