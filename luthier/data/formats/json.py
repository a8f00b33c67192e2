"""One JSON document: a list of objects."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from luthier.core.errors import DataError
from luthier.data.encoding import BLOCK, TextFile, examine, reading
from luthier.data.formats import formats
from luthier.data.formats.format import TINY, Format
from luthier.data.objects import read_objects
from luthier.data.reading import Reading
from luthier.data.section import DataSection
from luthier.data.squad import holds_articles, questions_of

_BETWEEN = re.compile(r"[\s,]*")


@formats.add
class Json(Format):
    """A list of objects, read piece by piece; or an object with such a list in it, read as a whole; keys are columns.

    Articles in the layout of SQuAD are read as one row for each question.
    """

    endings = (".json",)

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a JSON file; see `Format.read`. Objects one a line are read as JSONL."""
        file = examine(Path(source), section.encoding, limit_lines=False)
        if _has_object_lines(file):
            opened = formats.get("jsonl").read(source, section)
            opened.notes.append(f"{file.path.name}: one object a line, read as JSONL")
            return opened
        opened = read_objects(lambda: _elements(file), source)
        opened.notes += file.notes
        opened.facts["encoding"] = file.encoding
        return opened

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny file; see `Format.example`."""
        path = folder / "tiny.json"
        path.write_text(json.dumps([{"text": text, "label": label} for text, label in TINY]), encoding="utf-8")
        return str(path)


def _has_object_lines(file: TextFile) -> bool:
    """Whether the first line is a whole object and another one follows."""
    with reading(file.path), io.TextIOWrapper(file.open(), "utf-8") as stream:
        first, second = stream.readline(BLOCK).strip(), stream.readline(BLOCK).strip()
    try:
        return isinstance(json.loads(first), dict) and second.startswith("{")
    except (ValueError, RecursionError):
        return False


def _elements(file: TextFile) -> Iterator[Any]:
    """Yield the elements of the list, holding one piece of the file at a time."""
    with reading(file.path), io.TextIOWrapper(file.open(), "utf-8") as stream:
        start = stream.read(BLOCK).lstrip()
        if start.startswith("["):
            yield from _listed(stream, start[1:], file)
        else:
            yield from _inside_object(start + stream.read(), file)


def _listed(stream: TextIO, text: str, file: TextFile) -> Iterator[Any]:
    decoder, place, number = json.JSONDecoder(), 0, 1
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
        if text.startswith("]", place):
            return
        try:
            value, end = decoder.raw_decode(text, place)
            cut = end == len(text)
        except (ValueError, RecursionError) as error:
            value, end, cut, fault = None, place, True, error
        if not cut:
            yield value
            place, number = end, number + 1
            continue
        more = stream.read(max(BLOCK, len(text) - place))
        if not more:
            message = "the list is not closed" if place == len(text) or end > place else str(fault)
            raise _broken(file, f"element {number}: {message}")
        text, place = text[place:] + more, 0


def _inside_object(text: str, file: TextFile) -> Iterator[Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(file, str(error)) from None
    lists = {key: value for key, value in document.items() if isinstance(value, list)} if isinstance(document, dict) else {}
    if "data" in lists or len(lists) == 1:
        elements = lists.get("data", next(iter(lists.values())))
        yield from questions_of(elements) if holds_articles(elements) else elements
        return
    found = "an object with the keys " + ", ".join(map(repr, list(document)[:8])) if isinstance(document, dict) else "one value"
    raise DataError(
        f"'{file.path}' holds {found}; wanted a list of objects",
        fix='write [{"text": "...", "label": "..."}, ...] or {"data": [...]}',
    )


def _broken(file: TextFile, message: str) -> DataError:
    return DataError(f"'{file.path}' is not valid JSON: {message}", fix="mend it there; one object a line is data.format=jsonl")
