"""The layout of SQuAD is read as one row for each question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.formats import formats
from luthier.data.section import DataSection

ARTICLES: list[Any] = [
    {
        "title": "Ada",
        "paragraphs": [
            {
                "context": "Ada wrote notes.",
                "qas": [
                    {"id": "1", "question": "Who wrote?", "answers": [{"text": "Ada", "answer_start": 0}], "is_impossible": False},
                    {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
                ],
            }
        ],
    },
    {"title": "Bob", "paragraphs": [{"context": "Bob sings.", "qas": [{"id": "3", "question": "Who sings?", "answers": []}]}]},
]


def rows_of(path: Path, document: Any) -> tuple[list[dict[str, Any]], list[str]]:
    path.write_text(json.dumps(document), encoding="utf-8")
    opened = formats.get("json").read(str(path), DataSection())
    chunks = list(opened.chunks(range(len(opened.columns))))
    rows = [dict(zip(opened.columns, cells, strict=True)) for chunk in chunks for cells in zip(*chunk.cells.values(), strict=True)]
    return rows, [bad.reason for bad in opened.bad]


def test_one_row_for_each_question(tmp_path: Path) -> None:
    rows, bad = rows_of(tmp_path / "squad.json", {"version": "v2.0", "data": ARTICLES})
    assert not bad
    assert [(row["title"], row["question"], row["context"]) for row in rows] == [
        ("Ada", "Who wrote?", "Ada wrote notes."),
        ("Ada", "Why?", "Ada wrote notes."),
        ("Bob", "Who sings?", "Bob sings."),
    ]
    assert [row["is_impossible"] for row in rows] == [False, True, None]
    assert rows[0]["answers"] == [{"text": "Ada", "answer_start": 0}]


def test_broken_pieces_are_named(tmp_path: Path) -> None:
    broken = [*ARTICLES, {"title": "no paragraphs"}, {"paragraphs": [{"qas": []}, "text", {"context": "c", "qas": ["what?"]}]}]
    rows, bad = rows_of(tmp_path / "squad.json", {"data": broken})
    assert len(rows) == 3
    assert [reason.partition(" (")[0] for reason in bad] == [
        "an article without a list of paragraphs",
        "a paragraph without a context and a list of questions",
        "a paragraph without a context and a list of questions",
        "not a JSON object",
    ]


def test_articles_without_a_question_have_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        rows_of(tmp_path / "squad.json", {"data": [{"paragraphs": []}]})
