"""Files of tagged words: CoNLL (a word a line with its tag in another column), and parallel files seq.in and seq.out."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.data.encoding import TextFile, examine, reading
from luthier.data.locate import known_endings
from luthier.data.reading import BadRow, Chunk, Reading, excerpt
from luthier.data.section import Column, DataSection

ENDINGS = (".conll", ".conllu", ".conll03", ".conll2003", ".iob", ".iob1", ".iob2", ".bio", ".bioes", ".bmes")
MAYBE = (".txt", ".tsv", ".tab")
PARALLEL = ("seq.in", "seq.out")
COLUMNS = ["tokens", "tags", "line"]
DOCUMENT = "-DOCSTART-"
COMMENT = re.compile(r"#\s*[\w:.-]+\s*=|#\s*(newdoc|newpar)\b|#$")
CHUNK, SAMPLED_LINES, MOSTLY = 1024, 500, 0.8
DOCUMENTS, COMMENTS, BLANK = "lines that begin a document", "lines of comment", "words that are white space"


def open_tagged(source: str, section: DataSection) -> Reading | None:
    """Open a CoNLL file, or a folder with `seq.in` and `seq.out`; None for a source of any other kind.

    Args:
        source: A file or a folder.
        section: The `data` section: `text` and `label` are the numbers of the columns, from 0; else the first and the last.

    Raises:
        DataError: if it cannot be read, or has no such columns.
    """
    path = Path(source).expanduser()
    if section.format != "auto":
        return None
    if all((path / name).is_file() for name in PARALLEL):
        return _parallel(path, section)
    return _conll(source, path, section) if path.is_file() and _is_conll(path, section) else None


def is_tagged(source: str | None, section: DataSection) -> bool:
    """Return whether `open_tagged` opens a source."""
    return source is not None and open_tagged(source, section) is not None


def _is_conll(path: Path, section: DataSection) -> bool:
    """Return whether a file has columns and blank lines between sentences; files with an ending of another format are not looked into."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(ENDINGS):
        return True
    if name.endswith(tuple(known_endings())) and not name.endswith(MAYBE):
        return False
    lines = list(islice(_lines(examine(path, section.encoding)), SAMPLED_LINES))
    widths = [len(_cells(line, tabs="\t" in line)) for line in lines if line.strip()]
    if not widths or all(line.strip() for line in lines[1:-1]):
        return False
    usual = max(set(widths), key=widths.count)
    return usual > 1 and widths.count(usual) > MOSTLY * len(widths)


def _lines(file: TextFile) -> Iterator[str]:
    with reading(file.path), io.TextIOWrapper(file.open(), "utf-8", newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\r\n")


def _cells(line: str, *, tabs: bool) -> list[str]:
    return line.rstrip("\t ").split("\t") if tabs else re.split(r"[ \t]+", line.strip(" \t"))


@dataclass(frozen=True)
class _Layout:
    """Where a CoNLL file has what: what is between its columns, how many there are, and which are the word and the tag."""

    tabs: bool
    width: int
    word: int
    tag: int
    numbered: bool  # CoNLL-U, whose first column numbers the words


def _conll(source: str, path: Path, section: DataSection) -> Reading:
    file = examine(path, section.encoding)
    layout = _layout(source, file, section)
    opened = Reading(COLUMNS, lambda wanted: _conll_chunks(source, file, layout, wanted, opened))
    notes = [*file.notes, f"{source}: words = column {layout.word}, tags = column {layout.tag} of {layout.width} (data.text, data.label)"]
    opened.notes += notes
    opened.facts |= {"encoding": file.encoding, "word_column": layout.word, "tag_column": layout.tag}
    return opened


def _layout(source: str, file: TextFile, section: DataSection) -> _Layout:
    numbered = Path(source).name.lower().removesuffix(".gz").endswith(".conllu")
    first = next((line for line in _lines(file) if line.strip() and not _is_aside(line)), None)
    if first is None:
        raise DataError(f"'{source}' has no words", fix="name a file with a word and its tag in each line")
    tabs = "\t" in first
    width = len(_cells(first, tabs=tabs))
    word = _number(section.text, 1 if numbered else 0, "data.text", width, source)
    tag = _number(section.label, 3 if numbered else width - 1, "data.label", width, source)
    if word == tag:
        what = f"'{source}' has one column ({excerpt(first)!r}), and a word and its tag are wanted"
        raise DataError(what if width == 1 else f"column {word} is both word and tag", where="data.label", fix="data.text=0 data.label=1")
    return _Layout(tabs, width, word, tag, numbered)


def _number(column: Column | None, usual: int, key: str, width: int, source: str) -> int:
    if column is not None and not str(column).isdigit():
        what = f"got {column!r}, but the columns of '{source}' have no names"
        raise DataError(what, where=key, fix=f"give the number of one, from 0 to {width - 1}")
    number = usual if column is None else int(column)
    if number >= width:
        raise DataError(f"'{source}' has {width} columns, and column {number} is wanted", where=key, fix=f"a number from 0 to {width - 1}")
    return number


def _is_aside(line: str) -> bool:
    return line.startswith(DOCUMENT) or COMMENT.match(line) is not None


def _conll_chunks(source: str, file: TextFile, layout: _Layout, wanted: Sequence[int], opened: Reading) -> Iterator[Chunk]:
    opened.bad.clear()
    aside = dict.fromkeys((DOCUMENTS, COMMENTS, BLANK), 0)
    rows: list[tuple[int, list[Any]]] = []
    for number, (first, lines) in enumerate(_sentences(file, aside), 1):
        row = _row(lines, layout, aside)
        if isinstance(row, str):
            opened.bad.append(BadRow(source, number, row, excerpt(" ".join(line for _, line in lines))))
            continue
        rows.append((number, [*row, first]))
        if len(rows) == CHUNK:
            yield _chunk(rows, wanted)
            rows = []
    if rows:
        yield _chunk(rows, wanted)
    said = [f"{count} {noun}" for noun, count in aside.items() if count]
    if said:
        opened.notes.append(f"{source}: left aside {', '.join(said)}")


def _chunk(rows: Sequence[tuple[int, list[Any]]], wanted: Sequence[int]) -> Chunk:
    return Chunk(np.array([number for number, _ in rows]), {place: [row[place] for _, row in rows] for place in wanted})


def _sentences(file: TextFile, aside: dict[str, int]) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Yield the number of the first line of each sentence, and its lines with their numbers."""
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(_lines(file), 1):
        if line.strip() and not _is_aside(line):
            lines.append((number, line))
            continue
        aside[DOCUMENTS] += line.startswith(DOCUMENT)
        aside[COMMENTS] += line.startswith("#")
        if lines and not line.startswith("#"):
            yield lines[0][0], lines
            lines = []
    if lines:
        yield lines[0][0], lines


def _row(lines: Sequence[tuple[int, str]], layout: _Layout, aside: dict[str, int]) -> tuple[list[str], list[str]] | str:
    """Return words and tags of a sentence, or what is wrong with it."""
    words, tags = [], []
    for number, line in lines:
        cells = _cells(line, tabs=layout.tabs)
        if len(cells) != layout.width:
            return f"wrong number of columns (line {number} has {len(cells)}, wanted {layout.width})"
        if layout.numbered and not cells[0].isdigit():
            continue  # 1-2 and 1.1: what several words are written as, and words that are not written
        if not cells[layout.word].strip():
            aside[BLANK] += 1
            continue
        words.append(cells[layout.word])
        tags.append(cells[layout.tag])
    return (words, tags) if words else f"no words (line {lines[0][0]})"


def _parallel(path: Path, section: DataSection) -> Reading:
    files = [examine(path / name, section.encoding) for name in PARALLEL]
    opened = Reading(COLUMNS, lambda wanted: _parallel_chunks(path, files, wanted))
    opened.notes.append(f"{path}: words of {PARALLEL[0]}, tags of {PARALLEL[1]}")
    return opened


def _parallel_chunks(path: Path, files: Sequence[TextFile], wanted: Sequence[int]) -> Iterator[Chunk]:
    pairs = zip_longest(*(_lines(file) for file in files))
    for number, (words, tags) in enumerate(pairs, 1):
        if words is None or tags is None:
            shorter, longer = PARALLEL if words is None else PARALLEL[::-1]
            what = f"'{path / shorter}' ends after line {number - 1}, and '{path / longer}' goes on"
            raise DataError(what, where="data.train", fix="give both files a line for each row")
        cells = [words.split(), tags.split(), number]
        yield Chunk(np.array([number]), {place: [cells[place]] for place in wanted})
