"""`luthier sweep`, `ensemble`, `soup` and `crossval` from their arguments to what they say and leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core import files, yaml

Luthier = Callable[..., Any]


def test_sweep(luthier: Luthier, recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    base = tmp_path / "base.yaml"
    quick = {"training.max_steps": 2, "model.head": {"start": "zero"}, "data.split": {"validation": 0.2, "test": 0.2}}
    base.write_text(yaml.dump(recipe(changes=quick)), encoding="utf-8")
    file = tmp_path / "rates.yaml"
    losses = ["cross-entropy", "binary-cross-entropy"]
    file.write_text(yaml.dump({"recipe": "base.yaml", "space": {"loss": losses}, "sampler": "grid"}), encoding="utf-8")
    said = luthier("sweep", file, "training.batch_size=16", "--output", tmp_path / "swept", "--json")
    assert said.code == 0, said.words
    for words in ("trial 0 of 2: loss=cross-entropy", "1 complete, 1 failed", "trial 1 failed: 1 fault", "best: trial 0", "best.yaml"):
        assert words in said.words
    assert said.object == files.read_json(tmp_path / "swept" / "sweep.json")
    assert yaml.load_file(tmp_path / "swept" / "best.yaml")["training"]["batch_size"] == 16
    wrong = luthier("sweep", file, "one-more", "--output", tmp_path / "other")
    assert wrong.code == 2 and "got 'one-more', wanted key=value" in wrong.words


def test_crossval_ensemble_and_soup(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("crossval", *flags, "--folds", "2", "--json")
    assert said.code == 0, said.words
    assert "fold 2 of 2" in said.words and "scores over 2 folds" in said.words
    assert said.object == files.read_json(tmp_path / "run" / "crossval.json")

    again = luthier("train", *flags, "evaluate.folds=2", "--json")
    assert again.code == 0 and again.object == said.object, "train does what crossval did, and finds it done"
    assert "does not go with --processes" in luthier("train", *flags, "evaluate.folds=2", "--processes", "2").words

    flags[flags.index("--output") + 1] = str(tmp_path / "a")
    assert luthier("train", *flags, "data.split.validation=0.2").code == 0
    flags[flags.index("--output") + 1] = str(tmp_path / "b")
    assert luthier("train", *flags, "data.split.validation=0.2", "training.seed=1").code == 0
    runs = [tmp_path / "a", tmp_path / "b"]

    said = luthier("ensemble", *runs, "--json")
    assert said.code == 0, said.words
    assert "all 2 runs agree on" in said.words
    assert [one["run"] for one in said.object["singles"]] == [str(run) for run in runs]

    said = luthier("ensemble", *runs, "--how", "stack", "--output", tmp_path / "together")
    assert said.code == 0 and "weights:" in said.words, said.words
    (answer,) = luthier("predict", tmp_path / "together", "where is my parcel").answers
    assert answer["agreement"] in (0.5, 1.0) and answer["entropy"] >= answer["mutual_information"] >= 0
    assert luthier("predict", tmp_path / "together", "--data", flags[1], "--out", tmp_path / "answers.csv").code == 0
    assert "mutual_information" in (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()[0]

    said = luthier("soup", *runs, "--output", tmp_path / "mix", "--how", "uniform", "--json")
    assert said.code == 0, said.words
    assert "2 of 2 runs are in the soup" in said.words and said.object["model"] == str(tmp_path / "mix")
    said = luthier("predict", tmp_path / "mix", "where is my parcel")
    assert said.code == 0 and said.answers[0]["label"] in ("delivery", "login", "payment")
    assert "name the model folder: --output" in luthier("soup", *runs).words


def test_sweep_over_variants(luthier: Luthier, recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.dump(recipe(changes={"model.head": {"start": "zero"}})), encoding="utf-8")
    file = tmp_path / "methods.yaml"
    written = {"recipes": ["base.yaml"], "variants": {"full": {}, "bitfit": {"model": {"train": "bitfit"}}}, "seeds": [0, 1]}
    file.write_text(yaml.dump(written), encoding="utf-8")
    out = tmp_path / "compared"
    said = luthier("sweep", file, "--output", out, "--variants", "bitfit", "--seeds", "7", "training.max_steps=2", "--json")
    assert said.code == 0, said.words
    assert "run 1 of 1: base/bitfit/seed-7" in said.words and "base/bitfit/seed-7: finished after" in said.words
    assert said.object == files.read_json(out / "comparison.json") and said.object["rows"][0]["score"]["seeds"] == 1
    assert files.read_json(out / "runs" / "base" / "bitfit" / "seed-7" / "metrics.json")["steps"] == 2
    assert 0 < said.object["rows"][0]["trained_share"] < 0.2
    wrong = luthier("sweep", file, "--trials", "3")
    assert wrong.code == 2 and "the file has variants" in wrong.words
    assert "wanted whole numbers" in luthier("sweep", file, "--seeds", "one").words


def test_runs_are_told_apart_by_short_names() -> None:
    from luthier.cli.together import short_names

    assert short_names(["runs/a", "runs/b"]) == ["a", "b"]
    assert short_names(["runs/2024/a", "other/a"]) == ["runs/2024/a", "other/a"]
    assert short_names(["runs/a"]) == ["a"]
