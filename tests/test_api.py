"""The Python interface: the verbs of the command line as functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import luthier
from luthier.core import files
from luthier.core.errors import ConfigError, DataError, SetupError

MakeRecipe = Callable[..., dict[str, Any]]
QUICK = {"training.max_steps": 3, "evaluate.baseline": False, "model.head": {"start": "zero"}}


def test_train_takes_a_recipe_and_changes(recipe: MakeRecipe, tmp_path: Path) -> None:
    given = recipe("elsewhere", QUICK)
    run = luthier.train(given, output=tmp_path / "run", lr=1e-3, batch_size=4, training={"seed": 3}, evaluate__resamples=150)
    assert run.path == tmp_path / "run" and not (tmp_path / "elsewhere").exists()
    written = luthier.recipe.yaml.load_file(run.path / "recipe.yaml")
    assert written["optim"]["learning_rate"] == 1e-3 and written["training"]["batch_size"] == 4
    assert written["training"]["seed"] == 3 and written["training"]["max_steps"] == 3, "a section that is changed keeps its other keys"
    assert written["evaluate"]["resamples"] == 150
    assert given == recipe("elsewhere", QUICK), "the caller's recipe is left as it was"


def test_train_takes_short_names_alone(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"evaluate": {"baseline": False}, "training": {"precision": "fp32", "threads": 1}}
    run = luthier.train(data=tiny_csv, text="text", label="label", model=tiny_model, output=tmp_path / "run", epochs=1, **quick)
    assert run.metrics["epochs"] == 1 and run.report == tmp_path / "run" / "report.html" and run.report.is_file()
    assert repr(run) == f"Run({str(run.path)!r})"


def test_a_run_knows_its_scores(tiny_run: Path) -> None:
    run = luthier.load(tiny_run)
    stored = files.read_json(tiny_run / "metrics.json")
    assert run.metrics == stored and run.scores == stored["scores"]
    assert run.scores["test"]["accuracy"]["low"] <= run.scores["test"]["accuracy"]["value"] <= run.scores["test"]["accuracy"]["high"]
    assert run.evaluate()["scores"] == run.scores


def test_evaluate_on_other_rows(tiny_run: Path, tmp_path: Path) -> None:
    rows = tiny.tiny_rows(30, seed=5)
    given = tiny.write_rows(tmp_path / "rows.csv", rows, header=("said", "about"))
    found = luthier.load(tiny_run).evaluate(str(given), text="said", label="about")
    answers = luthier.predict(tiny_run, [text for text, _ in rows])
    right = np.mean([answer.label == label for answer, (_, label) in zip(answers, rows, strict=True)])
    assert found["scores"]["test"]["accuracy"]["value"] == pytest.approx(right)
    assert luthier.evaluate(tiny_run, str(given), text="said", label="about")["scores"] == found["scores"]


def test_predict(tiny_run: Path) -> None:
    run = luthier.load(str(tiny_run))
    texts = [line["text"] for line in files.read_json_lines(tiny_run / "reference.jsonl")]
    answers = run.predict(texts)
    assert [answer.label for answer in answers] == [line["label"] for line in files.read_json_lines(tiny_run / "reference.jsonl")]
    assert all(math.isclose(sum(answer.probabilities.values()), 1, abs_tol=1e-5) for answer in answers)
    assert all(next(iter(answer.probabilities)) == answer.label for answer in answers), "the best comes first"
    assert run.predict(texts[0]) == [answers[0]] == luthier.predict(tiny_run, texts[0]), "a text alone is one text, not letters"
    assert next(run.stream(text for text in texts)) == answers[0] and run.predict([]) == []


def test_streaming_takes_texts_as_it_goes(tiny_run: Path) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield f"parcel {taken}"

    stream = luthier.load(tiny_run).stream(endless())
    assert next(stream).label and taken <= 2048


def test_ticks_come_live(recipe: MakeRecipe) -> None:
    training = luthier.ticks(recipe("run", QUICK), training__max_steps=4)
    steps = []
    for tick in training:
        events = files.read_json_lines(Path(recipe("run")["output"]) / "events.jsonl")
        steps.append(tick.step)
        assert [line["step"] for line in events if "loss" in line][-1:] == [tick.step], "events.jsonl says the same at the same time"
        assert math.isfinite(tick.loss) and tick.total_steps == 4
        assert not (Path(recipe("run")["output"]) / "metrics.json").exists()
    assert steps == [1, 2, 3, 4] and training.run.metrics["steps"] == 4


def test_a_training_under_way_has_no_run_yet(recipe: MakeRecipe) -> None:
    with pytest.raises(SetupError, match="half written: it has no model"):
        _ = luthier.ticks(recipe("run", QUICK)).run


def test_a_folder_of_plain_transformers_answers(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    names = {0: "refund", 1: "delivery", 2: "other"}
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3, id2label=names).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    texts = [text for text, _ in tiny.tiny_rows(40)] + ["please " * 300]
    with torch.inference_mode():
        inputs = [tokenizer(text, truncation=True, max_length=64, return_tensors="pt") for text in texts]
        wanted = torch.cat([model(**given).logits.softmax(-1) for given in inputs]).numpy()
    answers = luthier.predict(tmp_path / "plain", texts)
    found = np.array([[answer.probabilities[name] for name in names.values()] for answer in answers])
    assert np.abs(found - wanted).max() < 1e-5
    assert [answer.label for answer in answers] == [names[int(row.argmax())] for row in wanted]


def test_plain_transformers_loads_the_model_of_a_run(tiny_run: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, info = AutoModelForSequenceClassification.from_pretrained(tiny_run / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "model")
    reference = files.read_json_lines(tiny_run / "reference.jsonl")
    inputs = tokenizer([line["text"] for line in reference], padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits.numpy()
    assert np.abs(logits - np.array([line["logits"] for line in reference])).max() < 1e-4
    assert [model.config.id2label[int(row.argmax())] for row in logits] == [line["label"] for line in reference]


def test_errors_are_those_of_the_command_line(recipe: MakeRecipe, tmp_path: Path, tiny_csv: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.epoch: unknown key \(did you mean 'epochs'\?\)"):
        luthier.train(recipe("run"), training__epoch=3)
    with pytest.raises(ConfigError, match="dta: unknown key"):
        luthier.train(dta=str(tiny_csv))
    with pytest.raises(DataError, match="no such file"):
        luthier.train(recipe("run"), data=tmp_path / "none.csv")
    with pytest.raises(SetupError, match="no run folder at"):
        luthier.load(tmp_path / "none")
