"""`luthier predict`: one text, a file, standard input, pairs, numbered columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from luthier.core import files

Luthier = Callable[..., Any]
LATE = "my parcel is late and the courier is at the warehouse"
TWICE = "card charged twice on the invoice"


def in_order(probabilities: dict[str, float]) -> list[float]:
    return [probabilities[name] for name in sorted(probabilities)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """More than one chunk of answers, of very different lengths, each with its number in it."""
    return [f"{text} {'please ' * (index % 23)}{index}" for index, (text, _) in enumerate(tiny.tiny_rows(1300, seed=3))]


def same_answers(lines: list[dict[str, Any]], texts: list[str]) -> None:
    assert [line["text"] for line in lines] == texts and [line["row"] for line in lines] == list(range(1, len(texts) + 1))
    for line in lines:
        probabilities = line["probabilities"]
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5) and set(probabilities) == set(tiny.WORDS_BY_CLASS)
        assert line["label"] == max(probabilities, key=lambda name: probabilities[name])
        assert line["probability"] == probabilities[line["label"]]


def test_predict_texts(luthier: Luthier, tiny_run: Path) -> None:
    said = luthier("predict", tiny_run, LATE, TWICE)
    assert said.code == 0
    same_answers(said.answers, [LATE, TWICE])


def test_predict_a_text_that_starts_with_a_dash(luthier: Luthier, tiny_run: Path) -> None:
    said = luthier("predict", tiny_run, "--", "-5 on the card")
    assert said.code == 0, said.words
    assert said.answers[0]["text"] == "-5 on the card"


def test_predict_is_the_model_that_was_measured(luthier: Luthier, tiny_run: Path) -> None:
    from luthier.serve.predictor import Predictor

    reference = files.read_json_lines(tiny_run / "reference.jsonl")
    assert len(reference) == 24
    given = [line["text"] for line in reference]
    answers = luthier("predict", tiny_run, *given).answers
    assert [answer["label"] for answer in answers] == [line["label"] for line in reference]
    for answer, line in zip(answers, reference, strict=True):
        assert in_order(answer["probabilities"]) == pytest.approx(in_order(line["probabilities"]), abs=1e-5)
    logits = Predictor.open(tiny_run).outputs(given).logits_BC
    assert np.abs(logits - np.array([line["logits"] for line in reference])).max() <= 1e-5


def write(path: Path, texts: list[str]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": index, "text": text}) + "\n" for index, text in enumerate(texts)), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("\n".join(texts), encoding="utf-8")
    else:
        tiny.write_rows(path, [(str(index), text) for index, text in enumerate(texts)], header=("id", "text"))
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "txt"])
def test_predict_a_file_to_standard_output(luthier: Luthier, tiny_run: Path, tmp_path: Path, texts: list[str], ending: str) -> None:
    said = luthier("predict", tiny_run, "--data", write(tmp_path / f"in.{ending}", texts))
    assert said.code == 0, said.words
    same_answers(said.answers, texts)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".arrow":
        return pa.ipc.open_file(path).read_all().to_pylist()
    if path.suffix == ".jsonl":
        return files.read_json_lines(path)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    typed = {"row": int, "probability": float, "probabilities": json.loads, "text": str, "label": str}
    return [{key: typed[key](value) for key, value in row.items()} for row in rows]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "arrow"])
def test_predict_to_a_file(luthier: Luthier, tiny_run: Path, tmp_path: Path, texts: list[str], ending: str) -> None:
    out = tmp_path / "answers" / f"out.{ending}"
    said = luthier("predict", tiny_run, "--data", write(tmp_path / "in.csv", texts), "--out", out, "--json")
    assert said.code == 0, said.words
    assert len(said.out.splitlines()) == 1 and f"1,300 answers in {out}" in said.words
    assert {key: said.object[key] for key in ("rows", "bad_rows", "out")} == {"rows": 1300, "bad_rows": 0, "out": str(out)}
    assert [entry.name for entry in out.parent.iterdir()] == [out.name], "no quarantine without bad rows, nothing half written"
    same_answers(read(out), texts)


def test_bad_rows_are_counted_and_listed(luthier: Luthier, tiny_run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "in.jsonl"
    rows.write_text(f'{{"text": "{LATE}"}}\n{{"text": ""}}\nnot json\n{{"text": 5}}\n{{"text": "{TWICE}"}}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    said = luthier("predict", tiny_run, "--data", rows, "--out", out, "--json")
    assert said.code == 0 and said.object["rows"] == 2 and said.object["bad_rows"] == 3, said.words
    assert [line["row"] for line in read(out)] == [1, 5]
    listed = files.read_json_lines(tmp_path / "out.quarantine.jsonl")
    assert [line["row"] for line in listed] == [2, 3, 4]
    assert [line["reason"].partition(" (")[0] for line in listed] == ["empty text", "broken JSON", "text of a wrong type"]
    assert "rows without an answer: 3" in said.words and str(tmp_path / "out.quarantine.jsonl") in said.words
    streamed = luthier("predict", tiny_run, "--data", rows)
    assert [line["row"] for line in streamed.answers] == [1, 5] and "rows without an answer: 3" in streamed.err


@pytest.mark.parametrize("form", ["lines", "objects", "windows"])
def test_predict_standard_input(luthier: Luthier, tiny_run: Path, texts: list[str], form: str) -> None:
    lines = {
        "lines": "\n".join(texts),
        "objects": "\n".join(json.dumps({"text": text}) for text in texts) + "\n",
        "windows": "\ufeff" + "\r\n".join(texts) + "\r\n",
    }[form]
    said = luthier("predict", tiny_run, lines=lines)
    assert said.code == 0, said.words
    same_answers(said.answers, texts)


def test_an_empty_line_of_standard_input_keeps_the_numbers(luthier: Luthier, tiny_run: Path) -> None:
    said = luthier("predict", tiny_run, lines=f"{LATE}\n\n{TWICE}\n")
    assert [line["row"] for line in said.answers] == [1, 3] and "row 2 has no answer: empty text" in said.words


def test_pairs_of_texts(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    texts = tiny.tiny_rows(60)
    rows = [(text, texts[(index * 7) % 60][0], "same" if index % 2 else "other") for index, (text, _) in enumerate(texts)]
    given = tiny.write_rows(tmp_path / "pairs.csv", rows, header=("first", "second", "label"))
    flags[1] = str(given)
    assert luthier("train", *flags, "data.text=first", "data.text_pair=second").code == 0
    run = tmp_path / "run"
    reference = {line["text"]: line for line in files.read_json_lines(run / "reference.jsonl")}
    answers = luthier("predict", run, "--data", given).answers
    assert len(answers) == 60, "the columns of training are found again"
    for answer in answers:
        if answer["text"] in reference:
            line = reference[answer["text"]]
            assert line["text_pair"] in {second for first, second, _ in rows if first == answer["text"]}
            assert in_order(answer["probabilities"]) == pytest.approx(in_order(line["probabilities"]), abs=1e-5)
    swapped = luthier("predict", run, "--data", given, "--text", "second", "--text-pair", "first").answers
    assert any(abs(a["probability"] - b["probability"]) > 1e-6 for a, b in zip(answers, swapped, strict=True))
    objects = "".join(json.dumps({"first": first, "second": second}) + "\n" for first, second, _ in rows)
    piped = luthier("predict", run, lines=objects)
    assert [line["probabilities"] for line in piped.answers] == [line["probabilities"] for line in answers]
    refused = luthier("predict", run, lines="a line\n")
    assert refused.code == 2 and "two texts are wanted" in refused.words


def test_one_text_for_a_run_on_pairs_is_refused(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    rows = [(text, text[::-1], label) for text, label in tiny.tiny_rows(40)]
    flags[1] = str(tiny.write_rows(tmp_path / "pairs.csv", rows, header=("first", "second", "label")))
    assert luthier("train", *flags, "data.text=first", "data.text_pair=second").code == 0
    said = luthier("predict", tmp_path / "run", "one text only")
    assert said.code == 2 and "two texts are wanted" in said.words and "--data" in said.words, said.words


def test_a_run_on_numbered_columns(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    rows.write_text("".join(f"{label}\t{text}\n" for text, label in tiny.tiny_rows(60)), encoding="utf-8")
    flags[1] = str(rows)
    said = luthier("train", *flags, "data.text=1", "data.label=0", "--json")
    assert said.code == 0 and "no header line" in said.words and "rows: train 48, test 12" in said.words
    assert len(luthier("predict", tmp_path / "run", "--data", rows).answers) == 60
    assert luthier("evaluate", tmp_path / "run", "--json").object["scores"] == said.object["scores"]


def test_the_arithmetic_of_answers_can_be_chosen(luthier: Luthier, tiny_run: Path) -> None:
    exact, fast = (luthier("predict", tiny_run, "late parcel", "--precision", precision).answers[0] for precision in ("fp32", "bf16"))
    assert exact["probabilities"] != fast["probabilities"]
    assert all(abs(exact["probabilities"][label] - fast["probabilities"][label]) < 0.02 for label in exact["probabilities"])


def test_a_classifier_that_is_asked_to_write_says_that_it_cannot(tiny_run: Path) -> None:
    from luthier.core.errors import ConfigError
    from luthier.serve.predictor import Predictor

    with pytest.raises(ConfigError, match="the model writes no text") as caught:
        Predictor.open(tiny_run).writing(max_new_tokens=4)
    assert "--max-new-tokens" in str(caught.value)
