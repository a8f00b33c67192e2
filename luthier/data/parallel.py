"""Two text files with the same texts in two languages, line by line: `train.en` and `train.de`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from luthier.core.errors import DataError
from luthier.data.encoding import examine, reading
from luthier.data.reading import Chunk, Reading
from luthier.data.section import DataSection

PACKED = "gz"
PLAIN = ("txt", "text")
ROWS = 4096
STEMS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def differing_parts(source: str, target: str) -> tuple[str, str] | None:
    """Return the one part, between dots, in which two names of files differ: `en` and `de`; None where it is not one.

    Args:
        source: File with the first texts.
        target: File with the second ones.
    """
    ours, theirs = (Path(name).name.split(".") for name in (source, target))
    different = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
    return different[0] if len(ours) == len(theirs) and len(different) == 1 else None


def other_file(source: str, here: str, there: str) -> str | None:
    """Return the file with the other language: that of `val.en.gz` for en and de is `val.de.gz`; None where the name has no language.

    Args:
        source: File with the texts of one language.
        here: What its name has between dots, or at its end, such as `en`.
        there: What the other name has there.
    """
    path = Path(source)
    *parts, last = path.name.split(".")
    ending = [last] if last in (PACKED, *PLAIN) else []
    stem = parts if ending else [*parts, last]
    while stem and stem[-1] in PLAIN:
        ending, stem = [stem[-1], *ending], stem[:-1]
    if len(stem) < 2 or stem[-1] != here:
        return None
    return str(path.with_name(".".join([*stem[:-1], there, *ending])))


def files_in(folder: str, language: str) -> tuple[dict[str, str], list[str]]:
    """Return the file of each split in a folder of languages, and files that might be one but are not alone.

    Args:
        folder: A folder with files such as `train.en`, `val.en` and `test.en`.
        language: Which language's.
    """
    named = sorted(file for file in Path(folder).iterdir() if other_file(str(file), language, language) is not None)
    found: dict[str, str] = {}
    passed: list[str] = []
    for split, stems in STEMS.items():
        exact = [file for file in named if file.name.split(".")[0] in stems]
        alike = exact or [file for file in named if file.name.startswith(stems)]
        if len(alike) == 1:
            found[split] = str(alike[0])
        passed += [file.name for file in alike] if len(alike) > 1 else []
    return found, passed


def read_parallel(source: str, target: str, section: DataSection) -> Reading:
    """Open two files as rows with the columns `source` and `target`.

    Args:
        source: File with one text a line.
        target: File with the other text of each line.
        section: Says their encoding.

    Raises:
        DataError: if a file is missing, or they have different numbers of lines.
    """
    for name in (source, target):
        if not Path(name).is_file():
            raise DataError(f"no such file: '{name}'", where="task.target_file", fix="name the file with the other language, line by line")
    sides = [_lines(name, section.encoding) for name in (source, target)]
    ours, theirs = (len(lines) for lines in sides)
    if ours != theirs:
        what = f"'{source}' has {ours:,} lines and '{target}' has {theirs:,}, and line n of one must say what line n of the other does"
        raise DataError(what, where="task.target_file", fix="name two files that belong together, or mend the shorter one")

    def chunks(wanted: Sequence[int]) -> Iterator[Chunk]:
        for start in range(0, ours, ROWS):
            numbers = np.arange(start + 1, min(start + ROWS, ours) + 1)
            yield Chunk(numbers, {place: list(sides[place][start : start + ROWS]) for place in wanted})

    return Reading(["source", "target"], chunks, facts={"target_file": target})


def _lines(name: str, encoding: str) -> list[str]:
    """Return the lines of a text file, without their ends."""
    path = Path(name)
    with reading(path), examine(path, encoding).open() as stream:
        return [line.decode("utf-8").rstrip("\r\n") for line in stream]
