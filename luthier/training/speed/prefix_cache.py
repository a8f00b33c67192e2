"""What frozen layers give for each training row, computed once, kept on disk and read memory-mapped.

N rows, W windows, T tokens, H width, X items: tokens or windows of several rows, one after the other.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from luthier.core import files
from luthier.core.machine import free_disk_bytes
from luthier.data.cache import cache_root

FORMAT = 1
STATES, STARTS, INDEX = "states.bin", "starts.npy", "index.json"
GIB, MIB = 2**30, 2**20
LEFT_FREE = 256 * MIB
Piece = tuple[np.ndarray, Tensor]


@dataclass(frozen=True)
class Layout:
    """What the file of an entry holds.

    Args:
        counts_N: Items of each row.
        width: Numbers in an item, H.
        dtype: Their type.
    """

    counts_N: np.ndarray
    width: int
    dtype: torch.dtype

    @property
    def num_items(self) -> int:
        """Items of all rows."""
        return int(self.counts_N.sum())

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self.num_items * self.width * self.dtype.itemsize


class States:
    """The items of rows, read as they are needed.

    Args:
        folder: An entry of the cache.
        layout: What it holds.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._layout = layout
        self._starts_N = np.load(folder / STARTS)
        numbers = layout.num_items * layout.width
        self._items_XH = torch.from_file(str(folder / STATES), shared=False, size=numbers, dtype=layout.dtype).view(-1, layout.width)

    def items(self, rows: np.ndarray) -> Tensor:
        """Return all items of some rows, one after the other, `(X, H)`."""
        counts_B = self._layout.counts_N[rows]
        first_B = np.cumsum(counts_B) - counts_B
        places_X = np.repeat(self._starts_N[rows] - first_B, counts_B) + np.arange(int(counts_B.sum()))
        return self._items_XH.index_select(0, torch.from_numpy(places_X))

    def padded(self, rows: np.ndarray, lengths_W: np.ndarray) -> Tensor:
        """Return the items of some rows as windows of tokens, `(W, T, H)`; after its end a window repeats its last token.

        Args:
            rows: Row indices.
            lengths_W: Tokens of each window of these rows.
        """
        counts_B = self._layout.counts_N[rows]
        ends_B = np.cumsum(counts_B)
        first_W = np.cumsum(lengths_W) - lengths_W
        row_W = np.searchsorted(ends_B, first_W, side="right")
        starts_W = self._starts_N[rows][row_W] + first_W - (ends_B - counts_B)[row_W]
        offsets_WT = np.minimum(np.arange(lengths_W.max())[None, :], lengths_W[:, None] - 1)
        places_WT = torch.from_numpy(starts_W[:, None] + offsets_WT)
        return self._items_XH.index_select(0, places_WT.reshape(-1)).view(*places_WT.shape, self._layout.width)


def folder_of(key: str) -> Path:
    """Return where the entry of a key is, or would be."""
    return cache_root() / "prefix" / key


def refusal(layout: Layout, *, most_bytes: int) -> str | None:
    """Return why an entry is not made, in words with both figures, or None where there is room.

    Args:
        layout: What it would hold.
        most_bytes: What all entries together may take.
    """
    needed = layout.num_bytes
    if needed > most_bytes:
        return f"it would take {in_words(needed)}, and training.speed.prefix_cache_gib allows {in_words(most_bytes)}"
    free = free_disk_bytes(folder_of("")) - LEFT_FREE
    if needed > free:
        return f"it would take {in_words(needed)}, and {in_words(max(free, 0))} can be used of the disk of {cache_root()}"
    return None


def make(key: str, layout: Layout, pieces: Iterable[Piece], *, most_bytes: int) -> Path:
    """Compute and write an entry; it appears whole or not at all. Entries that were not used for longest make room for it.

    Args:
        key: Name of the entry.
        layout: What it holds.
        pieces: Row indices and their items, in any order of the rows.
        most_bytes: What all entries together may take.

    Raises:
        RunStopped: if the disk is full.
    """
    folder = folder_of(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _make_room(most_bytes - layout.num_bytes, keep=folder)
    files.make_folder(folder, lambda aside: _write(aside, layout, pieces))
    return folder


def opened(folder: Path, layout: Layout) -> States | None:
    """Return what an entry holds and note that it was used; None where its files are missing, damaged or of another kind."""
    try:
        index = files.read_json(folder / INDEX)
        whole = index["layout"] == _described(layout) and all(
            (folder / name).stat().st_size == index["bytes"][name] and files.sha256_file(folder / name) == index["sha256"][name]
            for name in (STATES, STARTS)
        )
        if not whole:
            return None
        os.utime(folder)
        return States(folder, layout)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def in_words(num_bytes: int) -> str:
    """Return a size as a person reads it."""
    return f"{num_bytes / GIB:,.1f} GiB" if num_bytes >= 10 * GIB else f"{num_bytes / MIB:,.0f} MiB"


def _described(layout: Layout) -> dict[str, object]:
    counts = hashlib.sha256(np.ascontiguousarray(layout.counts_N, np.int64).data).hexdigest()
    return {"format": FORMAT, "rows": len(layout.counts_N), "counts": counts, "width": layout.width, "dtype": str(layout.dtype)}


def _write(folder: Path, layout: Layout, pieces: Iterable[Piece]) -> None:
    starts_N, written = np.full(len(layout.counts_N), -1, np.int64), 0
    with (folder / STATES).open("wb") as stream:
        for rows, items_XH in pieces:
            counts_B = layout.counts_N[rows]
            assert len(items_XH) == counts_B.sum() and items_XH.shape[1] == layout.width
            starts_N[rows] = written + np.cumsum(counts_B) - counts_B
            written += len(items_XH)
            stream.write(items_XH.to("cpu", layout.dtype).contiguous().view(torch.uint8).numpy().data)
    assert (starts_N >= 0).all(), "every row has its items"
    np.save(folder / STARTS, starts_N)
    names = (STATES, STARTS)
    sizes = {name: (folder / name).stat().st_size for name in names}
    sums = {name: files.sha256_file(folder / name) for name in names}
    files.write_json(folder / INDEX, {"layout": _described(layout), "bytes": sizes, "sha256": sums})


def _make_room(allowed: int, *, keep: Path) -> None:
    """Remove entries, the one not used for longest first, until the others take at most `allowed` bytes."""
    entries = []
    for path in keep.parent.iterdir():
        if path.name.startswith("."):
            if not _is_being_made(path):
                shutil.rmtree(path, ignore_errors=True)
        elif path != keep:
            entries.append((path.stat().st_mtime, sum(file.stat().st_size for file in path.iterdir()), path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= allowed:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= size


def _is_being_made(path: Path) -> bool:
    found = re.fullmatch(r"\..+\.(\d+)\.(tmp|old)", path.name)
    return found is not None and Path(f"/proc/{found[1]}").exists()
