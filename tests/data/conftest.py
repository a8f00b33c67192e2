from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

WORDS = "the film was slow but the end is bright and every actor plays as if it were the last evening on earth".split()


def sentence(number: int) -> str:
    """A text that no other number gives."""
    return " ".join(WORDS[(number * 7 + place * 3) % len(WORDS)] for place in range(6)) + f" {number}"


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Sequence[Sequence[str]], *, name: str = "rows.csv", header: Sequence[str] | None = ("text", "label"), **options) -> str:
        path = tmp_path / name
        with path.open("w", encoding=options.get("encoding", "utf-8"), newline="") as stream:
            writer = csv.writer(stream, lineterminator=options.get("lineterminator", "\n"))
            writer.writerows([header, *rows] if header else rows)
        return str(path)

    return write


@pytest.fixture
def write_json_lines(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Sequence[object], *, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def good_rows() -> list[tuple[str, str]]:
    return [(sentence(number), ("good", "bad")[number % 2]) for number in range(40)]


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("LUTHIER_DATA")
    if not folder:
        pytest.skip("LUTHIER_DATA is not set: the real data sets are not here")
    return Path(folder)
