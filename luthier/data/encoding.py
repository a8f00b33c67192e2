"""Which encoding a text file has, found by one pass in constant memory, and a stream of it as UTF-8."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import charset_normalizer
import numpy as np

from luthier.core.errors import DataError
from luthier.core.names import nearest
from luthier.data.reading import UNDECODABLE

BLOCK = 1 << 20
LONGEST_LINE = 10_000_000
SAMPLE = 1 << 16
BROKEN_LINES = 0.05  # up to this share of undecodable lines a file is damaged UTF-8, above it is something else
BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
BOMS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
CANDIDATES = ["gb18030", "big5", "cp1252", "cp932", "euc_kr", "cp1251"]
FAMILIAR = ["utf-8", "utf-16", "utf-32", "gb18030", "gbk", "gb2312", "big5", "latin-1", "cp1252", "cp1251", "shift_jis", "euc-kr"]


def _mark(error: UnicodeError) -> tuple[str | bytes, int]:
    """Put the mark where bytes cannot be decoded, or a half character cannot be encoded."""
    if isinstance(error, UnicodeDecodeError):
        return UNDECODABLE, error.end
    return UNDECODABLE.encode(), cast(UnicodeEncodeError, error).end


codecs.register_error("luthier-undecodable", _mark)


@dataclass(frozen=True)
class TextFile:
    """A text file whose encoding is known.

    Args:
        path: Where it stands; gzip where the name ends in `.gz`.
        encoding: Name of the encoding.
        broken: Whether some bytes cannot be decoded; they come out as one mark each.
        longest_line: Length of the longest line in bytes.
        notes: What was found, where it is worth saying.
    """

    path: Path
    encoding: str
    broken: bool
    longest_line: int
    notes: tuple[str, ...] = ()

    def open(self) -> BinaryIO:
        """Open the file as valid UTF-8 bytes without a byte order mark."""
        raw = open_bytes(self.path)
        if self.encoding != "utf-8" or self.broken:
            name = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
            return io.BufferedReader(_AsUtf8(io.TextIOWrapper(raw, name, errors="luthier-undecodable", newline="")), BLOCK)
        if raw.read(3) != codecs.BOM_UTF8:
            raw.seek(0)
        return raw


class _AsUtf8(io.RawIOBase):
    """The text of a stream as UTF-8 bytes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._text.read(max(1, len(buffer) // 4)).encode("utf-8", "luthier-undecodable")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._text.close()
        super().close()


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, unpacking `.gz`."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file into errors that say what to do.

    Raises:
        DataError: if the file cannot be opened or decoded, or is damaged gzip.
    """
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is not a whole gzip file: {error}", fix="download or pack it again") from None
    except UnicodeError as error:
        raise DataError(
            f"'{path}' cannot be decoded: {error}", where="data.encoding", fix="data.encoding=auto finds the encoding"
        ) from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}", fix="check the path and the rights to it") from None


def examine(path: Path, wanted: str = "auto", *, limit_lines: bool = True) -> TextFile:
    """Find the encoding of a text file.

    Args:
        path: The file.
        wanted: The encoding, where the user says it; `auto` finds it.
        limit_lines: Whether a line over 10 MB is an error.

    Returns:
        The file, ready to be opened as UTF-8.

    Raises:
        DataError: if the file is empty, has a line over 10 MB, or `wanted` is no encoding.
    """
    with reading(path):
        scan = _scan(path)
        if scan.size == 0:
            raise DataError(f"'{path}' is empty", fix="name a file with rows in it")
        if limit_lines and scan.longest_line > LONGEST_LINE:
            raise DataError(
                f"line {scan.longest_line_number} of '{path}' is {scan.longest_line / 1e6:.0f} MB long; at most 10 MB can be one row",
                fix="check that the line ends are there (LF or CRLF) and that data.format and data.delimiter are right",
            )
        encoding, broken, notes = _decide(path, scan, wanted)
    return TextFile(path, encoding, broken, scan.longest_line, tuple(notes))


def decode(data: bytes, wanted: str = "auto") -> tuple[str, str]:
    """Decode the bytes of one text; what cannot be decoded becomes a mark.

    Args:
        data: The bytes.
        wanted: The encoding, where the user says it; `auto` finds it.

    Returns:
        The text and the name of its encoding.
    """
    found = next((name for bom, name in BOMS.items() if data.startswith(bom)), "utf-8")
    name = found if wanted == "auto" else known_encoding(wanted)
    try:
        return data.decode("utf-8-sig" if name == "utf-8" else name), name
    except UnicodeDecodeError:
        name = (_detect(data) if wanted == "auto" else None) or name
        return data.decode(name, "luthier-undecodable"), name


def known_encoding(wanted: str) -> str:
    """Return the name of an encoding as Python has it; the larger set where there is one (gbk is read as gb18030).

    Args:
        wanted: What the user wrote.

    Raises:
        DataError: if there is no such encoding of text.
    """
    try:
        name = codecs.lookup(wanted).name
        "".encode(name)
    except LookupError:
        close = nearest(wanted, FAMILIAR, limit=1)
        raise DataError(f"no such encoding: '{wanted}'", where="data.encoding", fix=f"data.encoding={(close or ['auto'])[0]}") from None
    return {"utf-8-sig": "utf-8", "gb2312": "gb18030", "gbk": "gb18030"}.get(name, name)


@dataclass
class _Scan:
    size: int = 0
    start: bytes = b""
    valid: bool = True
    longest_line: int = 0
    longest_line_number: int = 0


def _scan(path: Path) -> _Scan:
    """Pass over the bytes once: size, first bytes, whether they are UTF-8, longest line."""
    scan, decoder, open_line, line_number = _Scan(), codecs.getincrementaldecoder("utf-8")(), 0, 1
    with open_bytes(path) as stream:
        while block := stream.read(BLOCK):
            scan.start = scan.start or block[:SAMPLE]
            scan.size += len(block)
            scan.valid = scan.valid and _decodes(decoder, block)
            ends = _line_ends(block)
            lengths = np.diff(ends, prepend=-1 - open_line, append=len(block)) - 1
            longest = int(lengths.argmax())
            if lengths[longest] > scan.longest_line:
                scan.longest_line, scan.longest_line_number = int(lengths[longest]), line_number + longest
            open_line, line_number = int(lengths[-1]), line_number + len(ends)
    scan.valid = scan.valid and _decodes(decoder, b"", final=True)
    return scan


def _line_ends(block: bytes) -> np.ndarray:
    """Positions of the line ends: LF, or CR in a block that has no LF."""
    values = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(values == 10)
    return ends if len(ends) else np.flatnonzero(values == 13)


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True


def _decide(path: Path, scan: _Scan, wanted: str) -> tuple[str, bool, list[str]]:
    """Return the encoding, whether it leaves undecodable bytes, and notes."""
    if wanted != "auto":
        name = known_encoding(wanted)
        return name, not (scan.valid and name == "utf-8"), []
    encoding = next((name for bom, name in BOMS.items() if scan.start.startswith(bom)), None) or _without_bom(scan.start)
    if encoding not in (None, "utf-8"):
        return encoding, True, [f"{path.name}: read as {encoding}"]
    if scan.valid:
        return "utf-8", False, []
    share, sample = _broken_lines(path)
    found = None if encoding or share <= BROKEN_LINES else _detect(sample)
    if found is None:
        return "utf-8", True, [f"{path.name}: {share:.1%} of the lines are not UTF-8; if it has another encoding, say data.encoding=..."]
    return found, True, [f"{path.name}: read as {found} (say data.encoding=... if this is wrong)"]


def _without_bom(start: bytes) -> str | None:
    """Tell UTF-16 without a byte order mark by its zero bytes, which all stand on one side."""
    zeros = np.frombuffer(start, dtype=np.uint8) == 0
    even, odd = int(zeros[::2].sum()), int(zeros[1::2].sum())
    if even + odd < max(2, len(start) // 200):
        return None
    if min(even, odd) * 50 > max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _broken_lines(path: Path) -> tuple[float, bytes]:
    """Return the share of lines that are not UTF-8, and a sample of them."""
    lines, broken, sample = 0, 0, bytearray()
    with open_bytes(path) as stream:
        while line := stream.readline(LONGEST_LINE):
            lines += 1
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                broken += 1
                if len(sample) < SAMPLE:
                    sample += line
    return broken / lines, bytes(sample)


def _detect(sample: bytes) -> str | None:
    """Return the encoding of bytes that are not UTF-8, or None where nothing fits."""
    best = charset_normalizer.from_bytes(sample, cp_isolation=CANDIDATES).best()
    return best.encoding.replace("_", "-") if best is not None else None
