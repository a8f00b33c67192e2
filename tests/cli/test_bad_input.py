"""Bad input ends in a message that says what was got, where, and what to change: exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pydoc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from luthier.core import files

Luthier = Callable[..., Any]
SUBPROCESS_SECONDS = 60


def refused(said: Any, *words: str, code: int = 2) -> None:
    """The command ended with `code` and a message with all the words, and without a traceback."""
    assert said.code == code, said.words
    assert "Traceback" not in said.words and "fault of ours" not in said.words
    for word in words:
        assert word in said.words, f"{word!r} is not in: {said.words}"


def with_data(flags: list[str], rows: Path) -> list[str]:
    """The flags with other rows."""
    return [str(rows) if before == "--data" else flag for before, flag in zip(["", *flags], flags, strict=False)]


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


# ---- models and run folders


def test_a_model_folder_without_safetensors(luthier: Luthier, flags: list[str], tiny_model: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (old / file.name).write_bytes(file.read_bytes())
    (old / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    said = luthier("train", *flags, "--model", old)
    refused(said, f"{old} has no .safetensors file", "pytorch_model.bin", "can run code", "where: model.path", "save_pretrained")


def test_a_run_that_is_not_there(luthier: Luthier) -> None:
    started = time.monotonic()
    refused(luthier("predict", "runs/none-001", "a text"), "no run folder and no model at 'runs/none-001'", "luthier runs")
    refused(luthier("evaluate", "runs/none-001"), "no run folder at 'runs/none-001'", "luthier runs")
    refused(luthier("train", "--resume", "runs/none-001"), "no run folder at 'runs/none-001'", "luthier runs")
    refused(luthier("predict", "none-001", "a text"), "none-001", "HF_HUB_OFFLINE is set")
    refused(luthier("runs", "none"), "no folder 'none' with runs", "luthier train")
    assert time.monotonic() - started < 10


def test_a_missing_run_waits_for_no_network(luthier: Luthier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is not switched off, but nothing answers there."""
    target = "none-001"
    environment = {name: value for name, value in os.environ.items() if not name.upper().endswith(("_PROXY", "_OFFLINE"))}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    command = [sys.executable, "-m", "luthier", "predict", target, "a text"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=SUBPROCESS_SECONDS)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert f"no folder '{target}' here" in ended.stderr and "no hub can be reached" in ended.stderr
    assert time.monotonic() - started < 30
    monkeypatch.delenv("HF_HUB_OFFLINE")
    refused(luthier("predict", "runs/none-001", "a text"), "no run folder and no model at 'runs/none-001'")


def unfinished(flags: list[str], *changes: str) -> Path:
    """A run that was killed after two of its three steps, checkpoints kept."""
    from luthier.cli.arguments import SHORT_FLAGS, split_changes
    from luthier.flow import Training

    words = [word for word in flags if "=" in word]
    given = [(SHORT_FLAGS[flag][0], value) for flag, value in zip(flags, flags[1:], strict=False) if flag in SHORT_FLAGS]
    training = Training.begin(None, changes=[*given, *split_changes([*words, "training.save_every=1step", *changes])[1]])
    ticks = iter(training)
    while next(ticks).step < 2:
        pass
    ticks.close()  # type: ignore[attr-defined]
    return training.run.path


def test_a_run_folder_half_written(luthier: Luthier, flags: list[str]) -> None:
    run = unfinished(flags)
    for verb in (["predict", run, "a text"], ["evaluate", run]):
        refused(luthier(*verb), f"'{run}' is half written: it has no model/", f"luthier train --resume {run}")
    resumed = luthier("train", "--resume", run, "--json")
    assert resumed.code == 0 and resumed.object["resumed_from_step"] in (1, 2) and resumed.object["steps"] == 3
    assert luthier("evaluate", run).code == 0 and luthier("predict", run, "a text").code == 0


def test_a_run_that_was_killed_between_model_and_scores(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    assert luthier("train", *flags).code == 0
    run = tmp_path / "run"
    before = json.loads((run / "metrics.json").read_text())
    for name in ("metrics.json", "report.html", "card.md"):
        (run / name).unlink()
    refused(luthier("evaluate", run), "is half written: it has no metrics.json", f"luthier train --resume {run}")
    resumed = luthier("train", "--resume", run, "--json")
    assert resumed.code == 0 and resumed.object["resumed_from_step"] == 3
    assert resumed.object["scores"] == before["scores"] and (run / "report.html").is_file()


@pytest.mark.parametrize("verb", [["evaluate"], ["train", "--resume"]])
def test_a_folder_that_is_no_run(luthier: Luthier, tmp_path: Path, verb: list[str]) -> None:
    refused(luthier(*verb, tmp_path), f"'{tmp_path}' is not a run folder: it has no recipe.yaml", "luthier runs")
    refused(luthier("predict", tmp_path, "a text"), str(tmp_path), "to fix:")


def test_resume_onto_changed_data(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(60))
    run = unfinished(with_data(flags, rows))
    tiny.write_rows(rows, tiny.tiny_rows(60, seed=1))
    said = luthier("train", "--resume", run)
    refused(said, "made with another data", "mix two runs", "put back what changed", "luthier train")


def test_resume_onto_another_base_model(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    model = tiny.make_tiny_model(tmp_path / "model")
    run = unfinished(flags, f"model.path={model}")
    tiny.make_tiny_model(model, seed=1)
    refused(luthier("train", "--resume", run), "made with another base model", "put back what changed")


# ---- the machine


def test_no_disk_space_at_the_start(luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.core.machine.free_disk_bytes", lambda path: 100_000)
    said = luthier("train", *flags)
    refused(said, "too little disk space", "0 MiB are free", "MiB are needed", "free some space", "--output")


def no_space(*given: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_space_in_safetensors(*given: Any, **named: Any) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("fails", [no_space, no_space_in_safetensors])
@pytest.mark.parametrize(
    "place",
    [
        "luthier.training.checkpoint.save_model",
        "luthier.training.checkpoint.save_file",
        "transformers.modeling_utils.PreTrainedModel.save_pretrained",
    ],
)
def test_the_disk_fills_up(
    luthier: Luthier, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, fails: Any
) -> None:
    """The run pauses, says so once, and ends by itself; nothing half written stays."""
    module, _, name = place.rpartition(".")
    owner = pydoc.locate(module)
    write, tries = getattr(owner, name), []

    def full_twice(*given: Any, **named: Any) -> Any:
        tries.append(name)
        return fails() if len(tries) < 3 else write(*given, **named)

    monkeypatch.setattr(place, full_twice)
    monkeypatch.setattr("luthier.training.patience.SECONDS_BETWEEN_LOOKS", 0.01)
    said = luthier("train", *flags, "training.save_every=1step")
    assert said.code == 0 and len(tries) >= 3
    assert said.words.count("the run pauses") == 1 and "going on" in said.words
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full here")
def test_the_disk_fills_up_under_the_answers(luthier: Luthier, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output on a device that is always full."""
    full = open("/dev/full", "w")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        said = luthier("predict", tiny_run, "a text")
    with contextlib.suppress(OSError):
        full.close()
    refused(said, "the disk is full", "free some space", code=3)


def allocate_too_much(*given: Any, **named: Any) -> None:
    import torch

    torch.empty(1 << 46)


def no_memory(*given: Any, **named: Any) -> None:
    raise MemoryError


def no_device_memory(*given: Any, **named: Any) -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize("fails", [allocate_too_much, no_memory, no_device_memory])
def test_out_of_memory(luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
    monkeypatch.setattr("luthier.training.step_rules.accumulate.Accumulate.gradient", fails)
    refused(luthier("train", *flags), "8 rows at once: going on with 4", "even with 1 row at once", "data.max_length", code=3)


def test_a_fault_of_ours_is_said_with_its_traceback(luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise RuntimeError("the bridge is loose")

    monkeypatch.setattr("luthier.training.step_rules.accumulate.Accumulate.gradient", broken)
    said = luthier("train", *flags, "--json")
    assert said.code == 1 and said.object["exit_code"] == 1 and len(said.out.splitlines()) == 1
    assert "Traceback" in said.err and "the bridge is loose" in said.err and "a fault of ours" in said.err
    assert "luthier env" in said.err


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
