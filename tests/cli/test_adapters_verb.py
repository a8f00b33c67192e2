"""`luthier adapters`: of a run, its model folder, what plain peft saved, several in one folder, and folders that have none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier import flow
from luthier.core import files

Luthier = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    changes = {"adapter": {"type": "lora", "r": 4, "alpha": 8}, "training.max_steps": 3, "model.extend_vocabulary": False}
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(60))
    return flow.train(tiny.tiny_recipe(tiny.make_tiny_model(folder / "bert"), rows, folder / "run", changes)).path


@pytest.fixture(scope="module")
def plain(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters that plain peft saved: the PEFT library puts one of them into a folder within."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = run.parent / "bert"
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    made = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"], task_type="SEQ_CLS"))
    made.add_adapter("tone", LoraConfig(r=2, target_modules=["key"], task_type="SEQ_CLS"))
    folder = tmp_path_factory.mktemp("plain") / "saved"
    made.save_pretrained(folder)
    return folder


def test_a_run_and_its_model_folder_say_the_same(run: Path, luthier: Luthier) -> None:
    from safetensors.torch import load_file

    saved = {name: tensor.numel() for name, tensor in load_file(run / "model" / "adapter_model.safetensors").items()}
    found = luthier("adapters", run, "--json").object
    counted = {"adapter": sum(n for name, n in saved.items() if "lora_" in name), "head": 33 * 3}
    assert found["in_file"] == counted and {name: found["parameters"][name] for name in counted} == counted
    named = {"name": "run", "r": 4, "method": "LORA", "heads": ["classifier"]}
    assert {name: found[name] for name in named} == named and found["adapter"]["type"] == "lora"
    assert set(name.rpartition(".")[2] for name in found["target_modules"]) == {"query", "key", "value", "dense"}
    assert found["base"] == str(run.parent / "bert") and found["run"] == str(run) and "others" not in found
    of_folder = luthier("adapters", run / "model", "--json").object
    assert {**found, "seconds": 0} == {**of_folder, "seconds": 0}
    alone = luthier("adapters", shutil.copytree(run / "model", run.parent / "copied"), "--json").object
    assert "run" not in alone and alone["name"] == "copied" and alone["in_file"] == counted and alone["parameters"] is None
    assert alone["share"] == pytest.approx(found["share"], rel=0.02), "the base's own file has no classifier"


def test_what_plain_peft_saved(plain: Path, luthier: Luthier) -> None:
    said = luthier("adapters", plain)
    found = luthier("adapters", plain, "--json").object
    width, blocks = 32, 2
    assert found["adapter"] == {"type": "lora", "r": 3, "lora_alpha": 6} and found["name"] == "saved"
    assert found["in_file"] == {"adapter": blocks * 2 * 3 * 2 * width, "head": 33 * 3} and found["heads"] == ["classifier"]
    (other,) = found["others"]
    assert (other["name"], other["method"], other["r"], other["target_modules"]) == ("tone", "LORA", 2, ["key"])
    assert other["in_file"] == {"adapter": blocks * 2 * 2 * width, "head": 33 * 3}
    assert "saved:" in said.words and "tone:" in said.words and f"trained: {blocks * 2 * 2 * width:,} numbers" in said.words


def test_weights_that_are_no_safetensors_are_not_opened(plain: Path, luthier: Luthier, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors", "tone"))
    torch.save({}, folder / "adapter_model.bin")
    assert luthier("adapters", folder, "--json").object["in_file"] is None
    assert "not counted" in luthier("adapters", folder).words


def test_folders_without_an_adapter_say_so(run: Path, tiny_run: Path, luthier: Luthier, tmp_path: Path) -> None:
    flow.merge(run, tmp_path / "merged")
    whole = "its model is whole"
    for folder, why in ((tmp_path / "merged", whole), (tiny_run, whole), (tmp_path, "no adapter_config.json")):
        said = luthier("adapters", folder)
        assert said.code == 2 and "has no adapter" in said.words and why in said.words
    assert luthier("adapters", tmp_path / "nothing").code == 2
    broken = shutil.copytree(run / "model", tmp_path / "broken")
    files.write_json(broken / "adapter_config.json", {"r": 3})
    assert "names no peft_type" in luthier("adapters", broken).words
