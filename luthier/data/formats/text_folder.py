"""A folder with one folder of .txt files for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from luthier.data.encoding import decode, reading
from luthier.data.formats import formats
from luthier.data.formats.format import SPLIT_NAMES, TINY, Format
from luthier.data.reading import Chunk, Reading
from luthier.data.section import DataSection

CHUNK = 1024


@formats.add
class TextFolder(Format):
    """Each .txt file is a text, the name of its folder the label; folders train/, validation/ and test/ of that shape are splits."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether there are folders with .txt files, perhaps inside train/ and test/."""
        return path.is_dir() and (bool(_classes(path)) or bool(cls.splits(str(path))))

    @classmethod
    def splits(cls, source: str) -> dict[str, str]:
        """Return train/, validation/ (valid/, val/, dev/) and test/ where they hold folders of classes."""
        inside = sorted(entry for entry in Path(source).iterdir() if entry.is_dir())
        found = {SPLIT_NAMES[entry.name.lower()]: str(entry) for entry in inside if entry.name.lower() in SPLIT_NAMES and _classes(entry)}
        return found if "train" in found else {}

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a folder; see `Format.read`. The columns are `text` and `label`."""
        files = [file for folder in _classes(Path(source)) for file in sorted(folder.glob("*.txt"))]
        opened = Reading(["text", "label"], lambda wanted: _chunks(files, wanted, section.encoding, opened))
        opened.facts["classes"] = [folder.name for folder in _classes(Path(source))]
        return opened

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny folder; see `Format.example`."""
        for number, (text, label) in enumerate(TINY):
            path = folder / "tiny" / label / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return str(folder / "tiny")


def _classes(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and next(entry.glob("*.txt"), None) is not None)


def _decoded(file: Path, encoding: str) -> tuple[str, str]:
    with reading(file):
        return decode(file.read_bytes(), encoding)


def _chunks(files: Sequence[Path], wanted: Sequence[int], encoding: str, opened: Reading) -> Iterator[Chunk]:
    others: Counter[str] = Counter()
    for start in range(0, len(files), CHUNK):
        taken = files[start : start + CHUNK]
        decoded = [_decoded(file, encoding) for file in taken]
        others.update(name for _, name in decoded if name != "utf-8")
        cells = [[text for text, _ in decoded], [file.parent.name for file in taken]]
        rows = np.arange(start + 1, start + len(taken) + 1)
        yield Chunk(rows, {place: list(cells[place]) for place in wanted}, [str(file) for file in taken])
    if others:
        opened.notes.append("text files read as " + ", ".join(f"{name}: {count}" for name, count in others.most_common()))
