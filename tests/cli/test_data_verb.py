"""`luthier data preview` from its arguments to what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from row_tasks import fill_mask
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions
from tiny_tasks import two_tasks

from luthier.core import yaml

Luthier = Callable[..., Any]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_rows_and_counts_of_a_classifier(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("data", "preview", *flags, "--rows", "2")
    assert said.code == 0, said.words
    assert "train" in said.words and "96 rows" in said.words and "left out 0 rows" in said.words
    assert said.out.count("[CLS]") == 2 and said.out.count("learnt: ") == 2 and "‹" not in said.out
    assert max(map(len, said.out.splitlines())) <= 80 and not (tmp_path / "run").exists()


def test_what_is_learnt_stands_between_marks(luthier: Luthier, tiny_model: Path, tmp_path: Path) -> None:
    rows = fill_mask.write(tmp_path)
    said = luthier("data", "preview", "--task", "fill-mask", "--data", rows, "--model", tiny_model)
    assert said.code == 0 and "of them learnt" in said.out
    assert said.out.count("‹") == said.out.count("›") >= 3 and "‹[MASK]" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_rows_that_teach_nothing_are_listed_and_many_are_refused(luthier: Luthier, tmp_path: Path) -> None:
    model, lines = make_tiny_decoder(tmp_path / "decoder"), tiny_instructions(60)
    lines[7] = {"instruction": "say " * 100, "input": "sun", "output": "sun"}
    flags = [
        "--task",
        "text-generation",
        "--model",
        model,
        "--data",
        write_instructions(tmp_path / "rows.jsonl", lines),
        "data.split.test=0",
    ]
    said = luthier("data", "preview", *flags)
    assert said.code == 2 and "nothing would be learnt of 1 of 60 rows" in said.words, said.words
    assert "row 8: no room for the response: the prompt alone has 96 tokens or more" in said.words
    assert "data.max_unlearnt_rows=0.017" in said.words
    said = luthier("data", "preview", *flags, "data.max_unlearnt_rows=0.017")
    assert said.code == 0 and "left out 1 rows 1: nothing to learn (no room for the response" in said.words, said.words
    assert "(rows.jsonl, row 8)" in said.words
    assert luthier("train", *flags).code == 2, "and nothing is trained"


def test_the_object(luthier: Luthier, tmp_path: Path) -> None:
    model = make_tiny_decoder(tmp_path / "decoder")
    lines = [*tiny_instructions(60), {"instruction": "say", "input": "", "output": ""}]
    rows = write_instructions(tmp_path / "rows.jsonl", lines)
    said = luthier("data", "preview", "--task", "text-generation", "--model", model, "--data", rows, "--rows", "1", "--json")
    assert said.code == 0 and len(said.out.splitlines()) == 1
    found = said.object
    assert found["splits"]["train"].keys() == {"rows", "tokens", "cut"} and found["unlearnt"] == 0
    assert [(one["reason"], one["rows"], one["first"]) for one in found["left_out"]] == [("empty response", 1, [61])]
    (row,) = found["rows"]
    assert len(row["pieces"]) == row["tokens"] and sum(piece["learnt"] for piece in row["pieces"]) == row["learnt"]
    json.dumps(found)


def test_several_tasks_are_shown_one_by_one(luthier: Luthier, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(yaml.dump(two_tasks(tiny_model, tmp_path)), encoding="utf-8")
    said = luthier("data", "preview", file, "--rows", "1")
    assert said.code == 0 and "task subject" in said.words and "task money" in said.words and said.out.count("learnt: ") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["preveiw", "a.yaml"], ["no 'luthier data preveiw'", "preview"]),
        (["preview"], ["no training rows are named"]),
        (["preview", "--rows", "-1"], ["--rows", "0 or more"]),
        (["preview", "one.yaml", "two.yaml"], ["got 2 recipes"]),
        ([], ["PART"]),
    ],
)
def test_what_it_refuses(arguments: list[str], words: list[str], luthier: Luthier) -> None:
    said = luthier("data", *arguments)
    assert said.code == 2 and all(word in said.words for word in words), said.words


def test_a_run_of_fill_mask_says_how_it_is_asked(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    wanted = [flag for flag in flags if not flag.startswith("model.head")]
    said = luthier("train", "--task", "fill-mask", *wanted)
    assert said.code == 0 and 'your text with a [MASK]"' in said.words, said.words
    refused = luthier("predict", tmp_path / "run", "my card was late")
    assert refused.code == 2 and "text 1 has no [MASK]" in refused.words and "write [MASK] in the place of a word" in refused.words
