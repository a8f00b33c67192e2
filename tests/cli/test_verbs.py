"""Each verb from its arguments to what it says, prints and leaves."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from luthier.core import files, yaml

Luthier = Callable[..., Any]
TRAIN_KEYS = {"run", "scores", "seconds", "training_seconds", "samples_per_second", "tokens_per_second", "peak_memory_bytes"}
MEANS = ("macro", "micro", "weighted")
SCORES = {"accuracy", "mcc", "auroc", "ece"} | {f"{name}_{mean}" for name in ("precision", "recall", "f1") for mean in MEANS}


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
        patched.setattr("luthier.stages.running.train.lay_out", killed)
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


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "merge", "adapters", "runs", "init", "check", "demo", "env", "version"])
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


@pytest.mark.parametrize("own", [None, "7"])
def test_few_kernels_are_kept_unless_the_user_says_otherwise(
    own: str | None, luthier: Luthier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    if own is not None:
        monkeypatch.setenv("LRU_CACHE_CAPACITY", own)
    monkeypatch.chdir(tmp_path)
    luthier("runs")
    assert os.environ["LRU_CACHE_CAPACITY"] == (own or "32")
