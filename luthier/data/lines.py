"""Lines of a stream as text, and as JSON objects."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from luthier.core.errors import DataError
from luthier.data.encoding import LONGEST_LINE, known_encoding, reading
from luthier.data.objects import parse_line, read_objects
from luthier.data.reading import Reading
from luthier.data.section import DataSection

ROWS = 4096  # that are held at once


def object_lines(lines: BinaryIO, section: DataSection, *, source: str = "standard input") -> Reading:
    """Open a stream of one JSON object a line; the columns are those of the first.

    Args:
        lines: Bytes, such as `sys.stdin.buffer`.
        section: `encoding` is used.
        source: What to call the stream in messages.

    Raises:
        DataError: if it is empty, or begins with something else.
    """
    decoded = decoded_lines(lines, section.encoding, source)
    first = next(decoded, None)
    if not isinstance(parse_line(first or ""), dict):
        raise DataError(f"{source} has no JSON object on its first line", fix="give one JSON object a line, with the columns of the rows")
    return object_reading(chain([first or ""], decoded), source)


def decoded_lines(lines: BinaryIO, encoding: str, source: str) -> Iterator[str]:
    """Yield the lines as text, the byte order mark and the line ends left out."""
    decode = codecs.getdecoder("utf-8" if encoding == "auto" else known_encoding(encoding))
    number = 0
    while line := lines.readline(LONGEST_LINE + 2):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(f"line {number} of {source} is over 10 MB long", fix="check that the line ends are there")
        with reading(Path(source)):
            text = decode(line, "luthier-undecodable")[0].rstrip("\r\n")
        yield text.removeprefix("\ufeff") if number == 1 else text


def object_reading(lines: Iterator[str], source: str) -> Reading:
    """Open lines of JSON; the columns are those of the first line, because a stream cannot be read twice."""
    values: Iterator[Any] = (parse_line(line) for line in lines)
    first = next(values)
    starts = [iter([first]), chain([first], values)]
    return read_objects(lambda: starts.pop(0), source, peek=1)
