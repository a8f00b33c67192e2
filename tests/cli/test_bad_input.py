"""Bad input ends in a message that says what was got, where, and what to change: exit code 2, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from refusals import refused, with_data

from luthier.core import files

Luthier = Callable[..., Any]


@pytest.fixture
def train(luthier: Luthier, flags: list[str], tmp_path: Path) -> Luthier:
    """Train on the rows of a text, or of a file."""

    def run(rows: str | bytes | Path, *more: str) -> Any:
        if not isinstance(rows, Path):
            data, rows = rows.encode() if isinstance(rows, str) else rows, tmp_path / "rows.csv"
            rows.write_bytes(data)
        return luthier("train", *with_data(flags, rows), *more)

    return run


def as_csv(rows: list[tuple[str, str]], header: str = "text,label", end: str = "\n") -> str:
    return end.join([header, *(f"{text},{label}" for text, label in rows)]) + end


# ---- rows


def test_missing_column(train: Luthier) -> None:
    said = train(as_csv(tiny.tiny_rows(20), "review,label"), "--text", "reviw")
    refused(said, "rows.csv' has no column 'reviw'; it has 'review', 'label'", "where: data.text", "to fix: data.text=review")


def test_missing_file(luthier: Luthier, flags: list[str], tiny_csv: Path) -> None:
    said = luthier("train", *with_data(flags, tiny_csv.with_name("tinny.csv")))
    refused(said, "no such file or folder", "tinny.csv", f"did you mean '{tiny_csv}'")


@pytest.mark.parametrize(("rows", "words"), [("", "is empty"), ("text,label\n", "has no rows, only a header"), ("\n\n", "has no rows")])
def test_empty_file(train: Luthier, rows: str, words: str) -> None:
    refused(train(rows), "rows.csv'", words, "to fix:")


def test_one_class_only(train: Luthier) -> None:
    said = train(as_csv([(text, "late") for text, _ in tiny.tiny_rows(30)]))
    refused(said, "has only the label 'late' in 30 rows", "at least two classes", "where: data.label", "to fix:", "data.label=")


def test_all_rows_bad(train: Luthier) -> None:
    said = train(as_csv([("", label) for _, label in tiny.tiny_rows(12)] + [("some text", "")]))
    refused(said, "none of the 13 rows", "can be used", "empty text: 12", "missing label: 1", "row 1", "check data.text")


def test_labels_that_are_numbers_to_predict(train: Luthier) -> None:
    rows = [(f"house number {index}", f"{index * 1.37 + 0.001:.3f}") for index in range(5000)]
    said = train(as_csv(rows))
    refused(said, "5,000 different numbers from 0.001 to", "regression", "where: data.label", "to fix: make classes of them")


def test_too_many_bad_rows_stop_before_training_and_are_listed(train: Luthier, tmp_path: Path) -> None:
    good = tiny.tiny_rows(90)
    said = train(as_csv([*good[:40], ("", "login"), *good[40:], *[(f"no label {index}", "") for index in range(9)]]))
    refused(said, "10 of 100 rows (10.0%)", "at most 5% may be bad", "missing label: 9", "empty text: 1", "data.max_bad_rows=0.1")
    listed = files.read_json_lines(tmp_path / "run" / "quarantine.jsonl")
    assert [(row["row"], row["reason"]) for row in listed] == [(41, "empty text"), *[(92 + index, "missing label") for index in range(9)]]
    assert listed[1]["text"] == "no label 0"
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_a_few_bad_rows_are_counted_said_and_listed(train: Luthier, tmp_path: Path) -> None:
    said = train(as_csv([*tiny.tiny_rows(60), ("", "login")]))
    assert said.code == 0 and "1 bad rows left out: empty text 1" in said.words
    listed = files.read_json_lines(tmp_path / "run" / "quarantine.jsonl")
    assert [(row["row"], row["reason"]) for row in listed] == [(61, "empty text")]


def test_latin_1_works_and_is_said(train: Luthier, tmp_path: Path) -> None:
    rows = [(f"{text} très à côté où déjà façon", label) for text, label in tiny.tiny_rows(60)]
    said = train(as_csv(rows).encode("latin-1"))
    assert said.code == 0, said.words
    assert "rows.csv: read as cp1252" in said.words or "rows.csv: read as latin" in said.words
    texts = [line["text"] for line in files.read_json_lines(tmp_path / "run" / "reference.jsonl")]
    assert all("très à côté" in text for text in texts)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_windows_line_ends_work(train: Luthier, tmp_path: Path, encoding: str) -> None:
    said = train(as_csv(tiny.tiny_rows(60), end="\r\n").encode(encoding))
    assert said.code == 0 and "rows: train 48, test 12" in said.words
    assert set(json.loads((tmp_path / "run" / "data.json").read_text())["splits"]["train"]["classes"]) == set(tiny.WORDS_BY_CLASS)
    assert not any("\r" in line["text"] for line in files.read_json_lines(tmp_path / "run" / "reference.jsonl"))


def test_a_line_of_50_mb(train: Luthier, luthier: Luthier, tiny_run: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.csv"
    long.write_bytes(as_csv(tiny.tiny_rows(20)).encode() + b"word " * 10_000_000 + b",login\n")
    refused(train(long), "line 22 of", "long.csv' is 50 MB long", "at most 10 MB", "check that the line ends are there")
    refused(luthier("predict", tiny_run, "--data", long), "line 22 of", "is 50 MB long")
    with long.open("rb") as lines:
        refused(luthier("predict", tiny_run, lines=lines.read()), "line 22 of standard input is over 10 MB", "line ends")


# ---- recipe and command line


def test_three_faults_are_said_at_once(luthier: Luthier, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: text-classificaton\ntraining:\n  epoch: 3\n  batch_size: many\ndata: {train: rows.csv}\n")
    said = luthier("train", recipe)
    refused(said, "3 faults", "task", "text-classificaton", "did you mean 'text-classification'?", f"where: {recipe}")
    refused(said, "training.epoch: unknown key (did you mean 'epochs'?)", "training.batch_size: got 'many', wanted a whole number")
    refused(luthier("check", recipe), "3 faults")


@pytest.mark.parametrize("words", [["--task", "text-clasification"], ["task=text-clasification"], ["task.type=text-clasification"]])
def test_unknown_task(luthier: Luthier, flags: list[str], words: list[str]) -> None:
    refused(luthier("train", *flags, *words), "unknown task 'text-clasification'", "did you mean 'text-classification'?")


def test_broken_yaml(luthier: Luthier, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: text-classification\ndata: {train: [\n")
    refused(luthier("train", recipe), "line 3", "not valid YAML", str(recipe))


def test_data_given_as_a_recipe(luthier: Luthier, tiny_csv: Path) -> None:
    refused(luthier("train", tiny_csv), "recipe", str(tiny_csv), f"luthier train --data {tiny_csv}")


def test_unknown_preset(luthier: Luthier) -> None:
    refused(luthier("train", "support-intent"), "no file and no preset 'support-intent'", "did you mean 'support-intents'?")


@pytest.mark.parametrize(("verb", "nearest"), [("tran", "train"), ("predictt", "predict"), ("checks", "check")])
def test_unknown_verb(luthier: Luthier, verb: str, nearest: str) -> None:
    refused(luthier(verb, "x"), f"unknown verb '{verb}'", f"did you mean '{nearest}'?")


@pytest.mark.parametrize(
    ("arguments", "unknown", "nearest"),
    [
        (["train", "--epoch", "3"], "--epoch", "--epochs"),
        (["train", "--batchsize=3"], "--batchsize", "--batch-size"),
        (["predict", "RUN", "--dat", "x"], "--dat", "--data"),
        (["evaluate", "RUN", "--lable", "x"], "--lable", "--label"),
        (["runs", "--jason"], "--jason", "--json"),
    ],
)
def test_unknown_flag(luthier: Luthier, arguments: list[str], unknown: str, nearest: str) -> None:
    refused(luthier(*arguments), f"{unknown}", "unknown flag", f"did you mean '{nearest}'?")
    said = luthier(*arguments, "--json")
    assert said.code == 2 and said.object["exit_code"] == 2 and unknown in said.object["error"]


@pytest.mark.parametrize("words", [["training.epoch=3"], ["--training.epoch", "3"], ["--training.epoch=3"]])
def test_unknown_override(luthier: Luthier, flags: list[str], words: list[str]) -> None:
    refused(luthier("train", *flags, *words), "training.epoch: unknown key", "did you mean 'epochs'?")


def test_a_flag_without_its_value(luthier: Luthier, flags: list[str]) -> None:
    refused(luthier("train", *flags, "--training.epochs"), "training.epochs", "has no value", "training.epochs=VALUE")
    refused(luthier("train", "--data"), "--data", "expected one argument")


@pytest.mark.parametrize("key", ["training.save_every", "training.eval_every", "schedule.warmup"])
def test_a_bare_number_is_no_duration(luthier: Luthier, flags: list[str], key: str, tmp_path: Path) -> None:
    refused(luthier("train", *flags, f"{key}=3"), f"{key}: 3 has no unit", "'1 epoch'", "'200 steps'", "'6%'")
    refused(luthier("train", *flags, f"{key}=3stepps"), f"{key}: unknown unit 'stepps'", "use epochs, steps")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_empty(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("kept")
    said = luthier("train", *flags)
    refused(said, "output", f"'{tmp_path / 'run'}' exists and is not empty", "--output", "--resume")
    assert (tmp_path / "run" / "mine.txt").read_text() == "kept"


def test_resume_takes_no_changes(luthier: Luthier, tiny_run: Path) -> None:
    refused(luthier("train", "--resume", tiny_run, "training.epochs=9"), "--resume", "takes no recipe and no changes", "start a new run")
    refused(luthier("train", "--resume", tiny_run, "--epochs", "9"), "takes no recipe and no changes")


def test_nothing_to_train_on(luthier: Luthier) -> None:
    refused(luthier("train"), "nothing to train on", "luthier train --data FILE", "luthier init FILE")


def test_early_stopping_needs_validation_rows(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("train", *flags, "training.early_stopping.patience=2")
    refused(said, "training.early_stopping: needs validation rows", "data.split.validation=0.1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("loss", "more", "problem"),
    [("binary-cross-entropy", [], "single-label"), ("cross-entropy", ["data.label_separator=|"], "multi-label")],
)
def test_a_loss_that_does_not_fit(luthier: Luthier, flags: list[str], loss: str, more: list[str], problem: str) -> None:
    said = luthier("train", *flags, f"loss={loss}", *more)
    refused(said, f"{loss} does not fit a {problem} problem", "use loss=")


def test_class_weights_of_an_unknown_label(luthier: Luthier, flags: list[str]) -> None:
    said = luthier("train", *flags, "loss.class_weights={login: 2.0, refunds: 3.0}")
    refused(said, "loss.class_weights.refunds: no such label", "labels: delivery, login, payment")


@pytest.mark.parametrize("words", [["evaluate.metrics=[acuracy]"], ["training.best_metric=acuracy", "data.split.validation=0.1"]])
def test_unknown_score(luthier: Luthier, flags: list[str], words: list[str]) -> None:
    refused(luthier("train", *flags, *words), "unknown score 'acuracy'", "did you mean 'accuracy'?")


# ---- prediction


def test_bad_output_and_empty_input_of_predict(luthier: Luthier, tiny_run: Path, tiny_csv: Path, tmp_path: Path) -> None:
    refused(luthier("predict", tiny_run, "--data", tiny_csv, "--out", tmp_path / "a.parket"), "--out", "'.parket'", "'.parquet'")
    refused(luthier("predict", tiny_run, "text", "--data", tiny_csv), "--data", "got texts and a file", "one of them")
    refused(luthier("predict", tiny_run, " "), "got an empty text", "leave it out")
    refused(luthier("predict", tiny_run, lines=""), "standard input is empty", "one text a line")
    refused(luthier("predict", tiny_run, "--data", tiny_csv, "--text", "txt"), "has no column 'txt'", "data.text=text")
    refused(luthier("predict", tiny_run, "--data", tmp_path / "none.csv"), "no such file", "none.csv")
    assert not list(tmp_path.iterdir())


def test_bad_arguments_of_evaluate_and_init(luthier: Luthier, tiny_run: Path, tiny_csv: Path, tmp_path: Path) -> None:
    refused(luthier("evaluate", tiny_run, tiny_csv), f"got '{tiny_csv}', wanted key=value", "--data")
    other = tiny.write_rows(tmp_path / "other.csv", [(text, "weather") for text, _ in tiny.tiny_rows(9)])
    refused(luthier("evaluate", tiny_run, "--data", other), "none of the 9 rows", "label that training does not have")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("mine")
    refused(luthier("init", tiny_csv, "--output", recipe), "exists already", "--output")
    assert recipe.read_text() == "mine"
