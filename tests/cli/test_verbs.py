"""Each verb from its arguments to what it says, prints and leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from luthier.core import files, yaml

Luthier = Callable[..., Any]
TRAIN_KEYS = {"run", "scores", "seconds", "training_seconds", "samples_per_second", "tokens_per_second", "peak_memory_bytes"}
MEANS = ("macro", "micro", "weighted")
SCORES = {"accuracy", "mcc", "auroc", "ece"} | {f"{name}_{mean}" for name in ("precision", "recall", "f1") for mean in MEANS}
LATE = "my parcel is late and the courier is at the warehouse"
TWICE = "card charged twice on the invoice"


def in_order(probabilities: dict[str, float]) -> list[float]:
    return [probabilities[name] for name in sorted(probabilities)]


def recipe_of(run: Path) -> dict[str, Any]:
    return yaml.load_file(run / "recipe.yaml")


# ---- train


def test_train_with_flags_alone(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("train", *flags, "--lr", "1e-3", "--epochs", "2", "--batch-size", "16", "--text", "text", "--label", "1")
    assert said.code == 0, said.words
    recipe = recipe_of(tmp_path / "run")
    assert recipe["optim"]["learning_rate"] == 1e-3 and recipe["training"]["batch_size"] == 16
    assert recipe["data"]["text"] == "text" and recipe["data"]["label"] == 1 and recipe["training"]["epochs"] == 2
    for words in (f"run: {tmp_path / 'run'}", "rows: train 96, test 24", "accuracy", "report.html", f"luthier predict {tmp_path / 'run'}"):
        assert words in said.words
    names = {entry.name for entry in (tmp_path / "run").iterdir()}
    wanted = {"recipe.yaml", "environment.json", "data.json", "quarantine.jsonl", "reference.jsonl", "events.jsonl", "checkpoints"}
    assert names >= wanted | {"model", "metrics.json", "card.md", "report.html"}


def test_train_with_a_recipe_and_changes(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    quick = yaml.dump({"training": {"batch_size": 4, "seed": 1}, "schedule": {"type": "cosine", "warmup": "10%"}})
    recipe.write_text(quick, encoding="utf-8")
    changes = ["--training.seed", "5", "--optim.weight_decay=0.3", "schedule.warmup=2steps", "training.save_every=2steps"]
    said = luthier("train", recipe, *flags[:6], *changes, *[flag for flag in flags[6:] if "batch_size" not in flag])
    assert said.code == 0, said.words
    written = recipe_of(tmp_path / "run")
    assert written["training"]["batch_size"] == 4 and written["training"]["seed"] == 5
    assert written["schedule"]["type"] == "cosine" and written["schedule"]["warmup"] == "2 steps"
    assert written["optim"]["weight_decay"] == 0.3 and written["training"]["save_every"] == "2 steps"
    assert isinstance(written["optim"]["learning_rate"], float) and written["training"]["precision"] == "fp32", "every auto is decided"


def test_changes_may_stand_anywhere(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("train", "training.seed=9", *flags, "--lr", "1e-3", "evaluate.metrics=[accuracy, ece]", "--json", "training.max_steps=2")
    assert said.code == 0, said.words
    assert recipe_of(tmp_path / "run")["training"]["seed"] == 9 and said.object["steps"] == 2
    assert set(said.object["scores"]["test"]) == {"accuracy", "ece"}


def test_the_object_of_train(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("train", *flags, "--json", "data.split.validation=0.2")
    assert said.code == 0 and len(said.out.splitlines()) == 1, "one line on standard output, words elsewhere"
    assert "rows: train" in said.err and "accuracy" in said.err
    found = said.object
    assert found == files.read_json(tmp_path / "run" / "metrics.json")
    assert set(found) >= TRAIN_KEYS and found["run"] == str(tmp_path / "run") and "resumed_from_step" not in found
    assert set(found["scores"]) == {"validation", "test"}
    for split in found["scores"].values():
        assert set(split) == SCORES
        assert all(set(score) == {"value", "low", "high"} for score in split.values())
        assert all(score["low"] <= score["value"] <= score["high"] for score in split.values() if score["low"] is not None)
    assert 0 < found["training_seconds"] < found["seconds"] and found["peak_memory_bytes"] > 50 * 2**20
    steps = [line for line in files.read_json_lines(tmp_path / "run" / "events.jsonl") if "tokens" in line]
    seconds = sum(step["seconds"] for step in steps)
    assert found["training_seconds"] == pytest.approx(seconds, abs=1e-3), "evaluation and saving are left out"
    assert found["tokens_per_second"] == pytest.approx(steps[-1]["tokens"] / seconds, rel=0.01)
    assert found["samples_per_second"] == pytest.approx(steps[-1]["samples"] / seconds, rel=0.01)


def test_rates_count_real_tokens(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    from luthier.data.prepared import Prepared
    from luthier.flow import prepare
    from luthier.recipe import resolve

    assert luthier("train", *flags, "training.max_steps=1", "training.batch_size=96").code == 0
    prepared: Prepared = prepare(resolve(recipe_of(tmp_path / "run")))
    step = files.read_json_lines(tmp_path / "run" / "events.jsonl")[0]
    assert step["tokens"] == int(prepared.splits["train"].num_tokens_N.sum()) and step["samples"] == 96


def test_resume_of_a_finished_run_prints_the_stored_object(luthier: Luthier, tiny_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    said = luthier("train", "--resume", tiny_run, "--json")
    stored = files.read_json(tiny_run / "metrics.json")
    assert said.code == 0 and said.object == {**stored, "resumed_from_step": 40}
    assert len(said.out.splitlines()) == 1 and "finished already" in said.err
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_resume_before_the_first_checkpoint_starts_from_0(
    luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("luthier.stages.train.lay_out", killed)
        assert luthier("train", *flags).code == 130
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"] and (tmp_path / "run" / "recipe.yaml").is_file()
    said = luthier("train", "--resume", tmp_path / "run", "--json")
    assert said.code == 0 and said.object["resumed_from_step"] == 0 and "starting from step 0" in said.err
    assert said.object == files.read_json(tmp_path / "run" / "metrics.json") and set(said.object) >= TRAIN_KEYS


def test_a_run_without_a_name_gets_the_next_one(
    luthier: Luthier, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = flags[:4] + flags[6:]
    names = [luthier("train", *flags, "--json", "training.max_steps=1").object["run"] for _ in range(2)]
    assert names == ["runs/tiny-001", "runs/tiny-002"]


def test_nothing_held_out_is_said(luthier: Luthier, flags: list[str]) -> None:
    said = luthier("train", *flags, "data.split.test=0", "--json")
    assert said.code == 0 and said.object["scores"] == {} and "nothing is measured" in said.err and "data.split.test=0.2" in said.err


@pytest.mark.parametrize("name", ["support-intents"])
def test_the_recipe_of_the_demo_resolves(name: str) -> None:
    from luthier.cli import demo
    from luthier.recipe import preset_names, resolve

    assert name in preset_names()
    recipe = resolve(name)
    assert Path(str(recipe.data.train)).is_file() and Path(str(recipe.data.test)).is_file() and recipe.data.slice_by == "language"
    assert demo.parser().parse_args(["--output", "x", "training.epochs=1"]).changes == ["training.epochs=1"]


# ---- evaluate


def test_evaluate_gives_the_scores_of_training(luthier: Luthier, tiny_run: Path) -> None:
    said = luthier("evaluate", tiny_run, "--json")
    assert said.code == 0 and len(said.out.splitlines()) == 1 and "test: 24 rows" in said.words
    assert said.object["scores"] == files.read_json(tiny_run / "metrics.json")["scores"]
    assert set(said.object) >= TRAIN_KEYS and said.object["run"] == str(tiny_run)


def test_evaluate_other_rows(luthier: Luthier, tiny_run: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "more.csv", tiny.tiny_rows(50, seed=7), header=("message", "topic"))
    said = luthier("evaluate", tiny_run, "--data", rows, "--text", "message", "--label", "topic", "evaluate.metrics=[accuracy]", "--json")
    assert said.code == 0, said.words
    assert said.object["rows"] == {"test": 50} and set(said.object["scores"]["test"]) == {"accuracy"}
    answers = luthier("predict", tiny_run, "--data", rows, "--text", "message").answers
    labels = [label for _, label in tiny.tiny_rows(50, seed=7)]
    right = np.mean([answer["label"] == label for answer, label in zip(answers, labels, strict=True)])
    assert said.object["scores"]["test"]["accuracy"]["value"] == pytest.approx(right)


# ---- predict


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


# ---- runs, init, check, env, version


def test_runs(luthier: Luthier, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.core.run_folder import RunFolder

    monkeypatch.setenv("COLUMNS", "100")
    RunFolder.create(tmp_path / "half", recipe={"task": "text-classification"}, environment={})
    (tmp_path / "whole").symlink_to(tiny_run)
    said = luthier("runs", tmp_path)
    score = files.read_json(tiny_run / "metrics.json")["scores"]["test"]["accuracy"]
    assert said.code == 0 and f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" in said.words
    assert "unfinished" in said.out and "validation" in said.out
    found = luthier("runs", tmp_path, "--json").object["runs"]
    assert {(Path(run["run"]).name, run["state"]) for run in found} == {("half", "unfinished"), ("whole", "finished")}
    assert [run["scores"] for run in found if run["state"] == "finished"] == [files.read_json(tiny_run / "metrics.json")["scores"]]


def uncommented(recipe: Path) -> Path:
    """The same recipe with every commented setting switched on."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    switched = [re.sub(r"^( *)# ( *)(?=[a-z_]+:)", r"\1\2", line) for line in lines]
    assert switched != lines
    other = recipe.with_name("switched.yaml")
    other.write_text("\n".join(switched) + "\n", encoding="utf-8")
    return other


@pytest.mark.parametrize("balanced", [True, False])
def test_init_writes_a_recipe_that_works(
    luthier: Luthier, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balanced: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row for index, row in enumerate(tiny.tiny_rows(150)) if balanced or row[1] != "login" or index % 4 == 0]
    rows = rows if balanced else [row for row in rows if row[1] != "login"] + [row for row in rows if row[1] == "login"][:8]
    tiny.write_rows(tmp_path / "my reviews.csv", [("x", *row) for row in rows], header=("id", "utterance", "intent"))
    said = luthier("init", "my reviews.csv", "--model", tiny_model, "--json")
    assert said.code == 0, said.words
    recipe = tmp_path / "my reviews.yaml"
    assert said.object["recipe"] == recipe.name and said.object["columns"] == {"text": "utterance", "label": "intent"}
    written = recipe.read_text(encoding="utf-8")
    assert f"{len(rows)} rows, 3 classes (delivery, login, payment)" in written and ("class_weights" in written) is not balanced
    quick = ["training.max_steps=1", "evaluate.baseline=false", "track.trackers=[]", "evaluate.resamples=100"]
    quick += ["training.precision=fp32", "training.threads=1"]
    for number, path in enumerate((recipe, uncommented(recipe))):
        assert luthier("check", path).code == 0
        ended = luthier("train", path, *quick, "--output", f"run{number}")
        assert ended.code == 0, ended.words
    switched = recipe_of(tmp_path / "run1")
    assert switched["data"]["split"]["validation"] == 0.1 and switched["optim"]["learning_rate"] == 1e-4
    assert (switched["loss"]["class_weights"] == "balanced") is not balanced


def test_init_names_the_columns_it_is_given(luthier: Luthier, tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    rows.write_text("".join(f"{label}\t{text}\n" for text, label in tiny.tiny_rows(60)), encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    said = luthier("init", rows, "--text", "1", "--label", "0", "data.header=false", "--output", recipe)
    assert said.code == 0, said.words
    data = yaml.load_file(recipe)["data"]
    assert (data["train"], data["text"], data["label"], data["header"]) == (str(rows), 1, 0, False)


def test_check_shows_two_rows_as_the_model_sees_them(luthier: Luthier, flags: list[str], tiny_model: Path, tiny_csv: Path) -> None:
    from transformers import AutoTokenizer

    said = luthier("check", *flags, "--json")
    assert said.code == 0 and said.object["ok"] and said.object["rows"] == {"train": 96, "test": 24}
    assert said.object["labels"] == ["delivery", "login", "payment"] and len(said.object["examples"]) == 2
    tokenizer, labels = AutoTokenizer.from_pretrained(tiny_model), dict(tiny.tiny_rows(120))
    for example in said.object["examples"]:
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(example["text"])["input_ids"])
        assert example["tokens"][: len(tokens)] == tokens and set(example["tokens"][len(tokens) :]) <= {"[PAD]"}
        assert example["mask"] == [1] * len(tokens) + [0] * (len(example["tokens"]) - len(tokens))
        assert example["label"] == labels[example["text"]]
    shown = luthier("check", *flags)
    assert " ".join(shown_line(said.object["examples"][0]["tokens"])) in shown.out
    assert re.search(r"^mask:   1[ 10]+$", shown.out, re.MULTILINE) and re.search(r"^label:  \w+$", shown.out, re.MULTILINE)
    assert "luthier train --data" in shown.out


def shown_line(tokens: list[str]) -> list[str]:
    return ["tokens:", *tokens]


def test_check_trains_nothing(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    assert luthier("check", *flags).code == 0
    assert list(tmp_path.iterdir()) == []


def test_check_warns_of_unknown_tokens(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    rows = [(f"房间很大服务很好 {index}", "好" if index % 2 else "坏") for index in range(40)]
    flags[1] = str(tiny.write_rows(tmp_path / "zh.csv", rows))
    said = luthier("check", *flags)
    assert said.code == 0 and re.search(r"warning: the tokenizer does not know \d+% of the tokens", said.words), said.words
    assert "characters of the training rows were added" in said.words


def test_env_and_version(luthier: Luthier, tiny_run: Path) -> None:
    from luthier import __version__

    assert luthier("version").out.strip() == luthier("--version").out.strip() == __version__
    assert luthier("version", "--json").object == {"version": __version__}
    said = luthier("env")
    assert said.code == 0 and "torch" in said.out and "GiB" in said.out
    found = luthier("env", "--json").object
    assert found["packages"]["luthier"] == __version__ and found["cores"] == len(os.sched_getaffinity(0))
    assert files.read_json(tiny_run / "environment.json")["packages"] == found["packages"]


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "runs", "init", "check", "demo", "env", "version"])
def test_help(luthier: Luthier, verb: str) -> None:
    said = luthier(verb, "--help")
    assert said.code == 0 and f"usage: luthier {verb}" in said.out and "--json" in said.out
    assert verb in luthier("--help").out


# ---- width


def test_tables_fit_a_terminal_of_80_columns(luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = luthier("train", *flags, "data.split.validation=0.2")
    assert said.code == 0
    lines = said.out.splitlines()
    rows = [line for line in lines if re.match(r"(accuracy|f1_macro|mcc|auroc|ece) ", line)]
    assert len(rows) == 5
    for line in rows:
        assert len(line) <= 80 and re.fullmatch(r"\w+( +(-|-?\d\.\d{3}( \(-?\d\.\d{3} to -?\d\.\d{3}\))?)){2} *", line), line
    listed = luthier("runs", tmp_path)
    scores = files.read_json(tmp_path / "run" / "metrics.json")["scores"]
    for split in ("validation", "test"):
        score = scores[split]["accuracy"]
        row = next(line for line in listed.out.splitlines() if f" {split} " in line)
        assert f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" in row and len(row) <= 80
    checked = luthier("check", *flags)
    starts = [line.split(":")[0] for line in checked.out.splitlines() if re.match(r"(text|tokens|mask|label):", line)]
    assert starts == ["text", "tokens", "mask", "label"] * 2
