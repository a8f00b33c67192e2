"""Names and lines of files that say the same in two languages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.data.parallel import differing_parts, files_in, other_file, read_parallel
from luthier.data.section import DataSection


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("a/train.en", "b/train.de", ("en", "de")),
        ("train.en.gz", "train.de.gz", ("en", "de")),
        ("news.en.txt", "news.zh.txt", ("en", "zh")),
        ("train.en", "valid.de", None),
        ("train.en", "train.de.gz", None),
    ],
)
def test_the_languages_of_two_names(source: str, target: str, found: tuple[str, str] | None) -> None:
    assert differing_parts(source, target) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("data/val.en", "data/val.de"),
        ("data/val.en.gz", "data/val.de.gz"),
        ("val.en.txt", "val.de.txt"),
        ("val.en.txt.gz", "val.de.txt.gz"),
        ("rows.en.jsonl", None),
        ("en", None),
        ("val.fr", None),
    ],
)
def test_the_other_file_of_a_name(source: str, found: str | None) -> None:
    assert other_file(source, "en", "de") == found


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("train.en", "train.de", "val.en", "val.de", "test_2016.en", "test_2017.en", "README"):
        (tmp_path / name).write_text("x\n", encoding="utf-8")
    found, passed = files_in(str(tmp_path), "en")
    assert {split: Path(name).name for split, name in found.items()} == {"train": "train.en", "validation": "val.en"}
    assert passed == ["test_2016.en", "test_2017.en"]


def test_lines_belong_together_whatever_their_ends_and_packing(tmp_path: Path) -> None:
    (tmp_path / "a.en.gz").write_bytes(gzip.compress("one\r\n\r\nthree\u2028still three".encode()))
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\nzwei\ndrei\n"))
    opened = read_parallel(str(tmp_path / "a.en.gz"), str(tmp_path / "a.de.gz"), DataSection())
    [chunk] = opened.chunks([0, 1])
    assert chunk.rows.tolist() == [1, 2, 3]
    assert chunk.cells == {0: ["one", "", "three\u2028still three"], 1: ["eins", "zwei", "drei"]}


def test_different_lengths_and_missing_files_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(DataError, match="no such file"):
        read_parallel(str(tmp_path / "a.en"), str(tmp_path / "a.de"), DataSection())
    (tmp_path / "a.de").write_text("eins\n", encoding="utf-8")
    with pytest.raises(DataError, match="has 2 lines and .* has 1"):
        read_parallel(str(tmp_path / "a.en"), str(tmp_path / "a.de"), DataSection())


@pytest.mark.real
def test_multi30k_is_read_as_it_is(real_data: Path) -> None:
    source, target = (str(real_data / "multi30k" / f"val.{language}.gz") for language in ("en", "de"))
    opened = read_parallel(source, target, DataSection())
    [chunk] = opened.chunks([0, 1])
    assert len(chunk.rows) == 1014 and chunk.cells[0][0].startswith("A group of men") and chunk.cells[1][0].startswith("Eine Gruppe")
