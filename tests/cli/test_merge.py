"""`luthier merge`: the merged folder answers as the run did, in plain transformers too, or nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier import flow
from luthier.core import files

Luthier = Callable[..., Any]
SHORT = {"adapter": {"type": "lora", "r": 4, "alpha": 64}, "training.max_steps": 12}


@pytest.fixture(scope="module")
def classifying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifying")
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(80))
    made = tiny.tiny_recipe(tiny.make_tiny_model(folder / "bert"), rows, folder / "run", {**SHORT, "model.extend_vocabulary": False})
    return flow.train(made).path


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def writing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writing")
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(80))
    changes = {**SHORT, "training.precision": request.param}
    return flow.train(writing_recipe(make_tiny_decoder(folder / "llama"), rows, folder / "run", changes)).path


def test_a_merged_classifier_answers_as_the_run_did(classifying: Path, luthier: Luthier) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    said = luthier("merge", classifying, "--json")
    assert said.code == 0, said.words
    found = said.object
    assert found["model"] == str(classifying / "merged") and found["largest_difference"] <= found["allowed"] and found["inputs"] > 10
    lines = files.read_json_lines(classifying / "reference.jsonl")
    model = AutoModelForSequenceClassification.from_pretrained(classifying / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(classifying / "merged")
    with torch.no_grad():
        logits = model(**tokenizer([line["text"] for line in lines], padding=True, return_tensors="pt")).logits.numpy()
    assert np.abs(logits - np.array([line["logits"] for line in lines])).max() <= 1e-5
    answers = [answer.label for answer in flow.predict(classifying / "merged", [line["text"] for line in lines])]
    assert answers == [line["label"] for line in lines]


def test_a_merged_writer_answers_as_the_run_did(writing: Path, luthier: Luthier, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    said = luthier("merge", writing, "--output", tmp_path / "plain", "--json")
    assert said.code == 0, said.words
    half = files.read_json(writing / "model" / "luthier.json")["base_in_half"]
    assert said.object["precision"] == ("bf16" if half else "fp32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    for line in files.read_json_lines(writing / "reference.jsonl")[:8]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([line["tokens"]])).logits[0, -1]
        assert logits[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=0.1 if half else 1e-5)


def test_a_model_that_answers_otherwise_is_not_kept(classifying: Path, luthier: Luthier, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifying, run, ignore=shutil.ignore_patterns("merged"))
    lines = files.read_json_lines(run / "reference.jsonl")
    lines[3]["logits"][0] += 0.01
    (run / "reference.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    said = luthier("merge", run)
    assert said.code == 2 and "differ from the run's by 0.01" in said.words and "nothing was written" in said.words
    assert not (run / "merged").exists() and not list(run.glob(".merged*"))


def test_what_an_adapter_is_made_of_is_shown(classifying: Path, luthier: Luthier) -> None:
    from safetensors.torch import load_file

    said = luthier("adapters", classifying)
    found = luthier("adapters", classifying, "--json").object
    numbers = {name: tensor.numel() for name, tensor in load_file(classifying / "model" / "adapter_model.safetensors").items()}
    trained = sum(number for name, number in numbers.items() if "lora_" in name)
    assert found["parameters"]["adapter"] == trained and found["method"] == "LORA" and found["heads"] == ["classifier"]
    assert f"trained: {trained:,} numbers" in said.words and "modules:" in said.words and "alpha 64" in said.words


def test_a_run_without_an_adapter_is_refused(tiny_run: Path, luthier: Luthier) -> None:
    assert "the run has no adapter" in luthier("adapters", tiny_run).words
    said = luthier("merge", tiny_run)
    assert said.code == 2 and "has no adapter to merge" in said.words and str(tiny_run / "model") in said.words


def test_a_folder_with_something_else_in_it_is_left_alone(classifying: Path, luthier: Luthier, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine", encoding="utf-8")
    said = luthier("merge", classifying, "--output", tmp_path)
    assert said.code == 2 and "is no model folder" in said.words
    assert (tmp_path / "letters.txt").read_text(encoding="utf-8") == "mine"
