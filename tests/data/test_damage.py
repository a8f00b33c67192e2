"""Files that are broken at random end in rows or in a message, never in another exception."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from luthier.core.errors import LuthierError
from luthier.data.formats import formats
from luthier.data.rows import load_rows
from luthier.data.section import DataSection
from luthier.data.stream import stream_rows

PIECES = [b'"', b"\n", b"\r", b"\xff", b"\x00", b",", b"{", b"[", b"\xef\xbb\xbf", b"\xff\xfe"]
SECTIONS = [{}, {"text": 0, "label": 1}, {"max_bad_rows": 1.0}, {"quoting": False, "header": False, "text": 0, "label": 1}]
SECTIONS += [{"encoding": name} for name in ("gbk", "utf-16", "ascii", "idna")] + [{"delimiter": mark} for mark in (";", '"', "，", "\n")]


def damaged(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 3, 20])):
        place = chance.randrange(len(data) + 1)
        data[place : place + chance.randrange(5)] = chance.choice([*PIECES, b"", bytes([chance.randrange(256)])])
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data)


@pytest.mark.parametrize("name", ["csv", "tsv", "json", "jsonl", "parquet", "arrow"])
def test_damaged_files_never_raise_anything_else(name, tmp_path: Path):
    chance = random.Random(name)
    path = Path(formats.get(name).example(tmp_path))
    content = path.read_bytes()
    for _ in range(60):
        path.write_bytes(damaged(content, chance))
        section = chance.choice(SECTIONS)
        for use in (_train, _predict):
            try:
                use(str(path), section)
            except LuthierError as error:
                assert str(error)


def _train(source: str, section: dict) -> None:
    load_rows(DataSection(train=source, **section))


def _predict(source: str, section: dict) -> None:
    for _ in stream_rows(source, DataSection(**section), bad=[]):
        pass
