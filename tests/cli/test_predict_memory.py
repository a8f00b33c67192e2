"""Prediction streams: ten times the rows take no more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

MEASURED = """
import json, resource, sys
from luthier.cli.main import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}), file=sys.stderr)
"""
MIB = 2**20


def write_many(path: Path, num_rows: int) -> Path:
    """Rows of the same mixed lengths, however many."""
    texts = [text for text, _ in tiny.tiny_rows(1000)]
    with path.open("w", encoding="utf-8") as stream:
        stream.write("id,text\n")
        for start in range(0, num_rows, len(texts)):
            stream.write("".join(f"{start + index},{text}\n" for index, text in enumerate(texts[: num_rows - start])))
    return path


def peak_bytes(run: Path, rows: Path, out: Path | None, num_rows: int) -> int:
    """Largest resident memory of a process that answers the rows."""
    arguments = ["predict", str(run), "--data", str(rows), *(["--out", str(out)] if out else [])]
    answers = out or rows.with_name("answers.jsonl")
    with rows.with_name("answers.jsonl").open("w") as stream:
        ended = subprocess.run([sys.executable, "-c", MEASURED, *arguments], stdout=stream, stderr=subprocess.PIPE, text=True, check=True)
    found = json.loads(ended.stderr.splitlines()[-1])
    assert found["code"] == 0, ended.stderr
    if answers.suffix == ".jsonl":
        with answers.open(encoding="utf-8") as lines:
            assert sum(1 for _ in lines) == num_rows
    answers.unlink()
    return int(found["kib"]) * 1024


def grown(run: Path, folder: Path, few: int, many: int, out: Path | None = None) -> float:
    """MiB that `many` rows take more than `few`."""
    peaks = [peak_bytes(run, write_many(folder / f"{number}.csv", number), out, number) for number in (few, many)]
    return (peaks[1] - peaks[0]) / MIB


def test_memory_hardly_grows_with_the_rows(tiny_run: Path, tmp_path: Path) -> None:
    assert grown(tiny_run, tmp_path, 2_000, 20_000) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("ending", [None, "parquet"])
def test_a_million_rows_take_at_most_50_mib_more(tiny_run: Path, tmp_path: Path, ending: str | None) -> None:
    out = tmp_path / f"answers.{ending}" if ending else None
    assert grown(tiny_run, tmp_path, 100_000, 1_000_000, out) <= 50
