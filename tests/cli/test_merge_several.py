"""`luthier merge RUN RUN`: the sum of LoRAs is what it is said to be, loads in plain peft, and answers where the heads agree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

import luthier as api
from luthier import flow
from luthier.core import files

Luthier = Callable[..., Any]
LORA = {"type": "lora", "r": 4, "alpha": 16}
QUICK = {"training.max_steps": 6, "evaluate.baseline": False}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on one tiny encoder: a and b alike, wide with another rank, scaled as rsLoRA, other with other labels."""
    folder = tmp_path_factory.mktemp("several")
    rows, model = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(80)), tiny.make_tiny_model(folder / "bert")
    renamed = tiny.write_rows(folder / "renamed.csv", [(text, f"{label}-too") for text, label in tiny.tiny_rows(80)])
    variants: dict[str, tuple[Path, dict[str, Any], dict[str, Any]]] = {
        "a": (rows, {}, {}),
        "b": (rows, {}, {"training.seed": 1}),
        "wide": (rows, {"r": 6, "target_modules": ["query", "value"]}, {}),
        "scaled": (rows, {"rslora": True}, {"training.seed": 2}),
        "dora": (rows, {"dora": True}, {}),
        "other": (renamed, {}, {}),
    }
    for name, (data, adapter, changes) in variants.items():
        made = {"adapter": LORA | adapter, "model.extend_vocabulary": False, "optim.learning_rate": 2e-2, **QUICK, **changes}
        flow.train(tiny.tiny_recipe(model, data, folder / name, made))
    made = {"adapter": {"type": "ia3"}, "model.extend_vocabulary": False, **QUICK}
    flow.train(tiny.tiny_recipe(model, rows, folder / "ia3", made))
    return folder


def products(folder: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each matrix, computed from its files alone."""
    config, state = files.read_json(folder / "adapter_config.json"), load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    firsts = [name for name in state if ".lora_A." in name]
    return {name: scale * state[name.replace(".lora_A.", ".lora_B.")] @ state[name] for name in firsts}


def in_peft(room: Path, folder: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    return PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(room / "bert", num_labels=3), folder).eval()


@pytest.mark.parametrize("runs", [("a", "b"), ("a", "wide"), ("a", "scaled"), ("scaled", "a")])
def test_the_products_are_added_up(runs: tuple[str, ...], room: Path, luthier: Luthier, tmp_path: Path) -> None:
    told = ["--weights", "0.75", "0.5", "--method", "cat", "--into", tmp_path / "sum", "--json"]
    said = luthier("merge", *(room / run for run in runs), *told)
    assert said.code == 0, said.words
    one, other = (products(room / run / "model") for run in runs)
    found = products(tmp_path / "sum")
    assert found.keys() == one.keys() | other.keys() and said.object["largest_difference"] <= 1e-5
    for name, product in found.items():
        wanted = 0.75 * one.get(name, torch.zeros(())) + 0.5 * other.get(name, torch.zeros(()))
        assert torch.allclose(product, wanted, atol=1e-5)


@pytest.mark.parametrize("method", ["svd", "cat", "linear", "ties", "dare_linear", "dare_ties"])
def test_it_answers_here_as_in_plain_peft(method: str, room: Path, luthier: Luthier, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    said = luthier("merge", room / "a", room / "b", "--method", method, "--into", tmp_path / "sum")
    assert said.code == 0, said.words
    texts = [line["text"] for line in files.read_json_lines(room / "a" / "reference.jsonl")][:8]
    answers = list(flow.predict(tmp_path / "sum", texts))
    told = AutoTokenizer.from_pretrained(tmp_path / "sum")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        chances = in_peft(room, tmp_path / "sum")(**told).logits.softmax(1)
    labels = files.read_json(tmp_path / "sum" / "luthier.json")["labels"]
    for answer, row in zip(answers, chances, strict=True):
        assert answer.probabilities == pytest.approx(dict(zip(labels, row.tolist(), strict=True)), abs=1e-5)
    heads = [load_file(room / run / "model" / "adapter_model.safetensors") for run in "ab"]
    found, name = load_file(tmp_path / "sum" / "adapter_model.safetensors"), "base_model.model.classifier.weight"
    assert torch.allclose(found[name], (heads[0][name] + heads[1][name]) / 2, atol=1e-6)


def test_svd_is_the_nearest_of_its_rank_and_dare_draws_the_same_each_time(room: Path, tmp_path: Path) -> None:
    made = {}
    for name, method in (("svd", "svd"), ("cat", "cat"), ("one", "dare_ties"), ("again", "dare_ties")):
        torch.rand(3)
        found = api.merge_adapters([room / "a", room / "b"], tmp_path / name, weights=[1.0, 1.0], method=method)
        made[name] = products(tmp_path / name)
        assert found["r"] == (8 if method == "cat" else 4)
    for name, exact in made["cat"].items():
        lost = torch.linalg.svdvals(exact)[4:].square().sum().sqrt()
        assert float((made["svd"][name] - exact).norm()) == pytest.approx(float(lost), abs=1e-5)
        assert torch.equal(made["one"][name], made["again"][name])


def test_with_other_labels_it_is_an_adapter_alone(room: Path, luthier: Luthier, tmp_path: Path) -> None:
    said = luthier("merge", room / "a", room / "other", "--into", tmp_path / "sum")
    assert said.code == 0 and "it has no head" in said.words
    assert not (tmp_path / "sum" / "luthier.json").exists()
    assert all(".lora_" in name for name in load_file(tmp_path / "sum" / "adapter_model.safetensors"))
    said = luthier("predict", tmp_path / "sum", "a text")
    assert said.code == 2 and "is an adapter without a head" in said.words
    assert in_peft(room, tmp_path / "sum").peft_config["default"].r == 4


def test_a_sum_is_added_to_again_and_replaced(room: Path, luthier: Luthier, tmp_path: Path) -> None:
    for runs in ((room / "a", room / "b"), (room / "a", room / "wide"), (tmp_path / "sum", room / "b")):
        said = luthier("merge", *runs, "--method", "cat", "--into", tmp_path / "sum", "--json")
        assert said.code == 0, said.words
    assert said.object["r"] == 4 + 6 + 4 and files.read_json(tmp_path / "sum" / "merged.json")["runs"][1] == str(room / "b")


def test_writers_are_added_up(luthier: Luthier, tmp_path: Path) -> None:
    rows, model = write_instructions(tmp_path / "rows.jsonl", tiny_instructions(80)), make_tiny_decoder(tmp_path / "llama")
    for seed in (0, 1):
        changes = {"adapter": LORA, **QUICK, "training.seed": seed, "training.precision": "bf16"}
        flow.train(writing_recipe(model, rows, tmp_path / f"run{seed}", changes))
    said = luthier("merge", tmp_path / "run0", tmp_path / "run1", "--weights", "1", "-1", "--method", "cat", "--into", tmp_path / "sum")
    assert said.code == 0, said.words
    assert len(list(flow.predict(tmp_path / "sum", ["repeat"]))) == 1
    assert files.read_json(tmp_path / "sum" / "luthier.json")["base_in_half"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "ia3"], "ia3, and only LoRAs are added up"),
        (["a", "dora"], "DoRA, which has lengths"),
        (["a", "wide", "--method", "ties"], "ties adds up factors, and their ranks are 4, 6"),
        (["a", "b", "--weights", "1"], "got 1 for 2 adapters"),
        (["a", "b", "--weights", "1", "-1"], "their sum is 0, and no mean of the heads"),
        (["a", "b", "--density", "0"], "wanted more than 0 and at most 1"),
        (["a", "b", "--method", "tie"], "got 'tie'"),
        (["a", "--method", "ties"], "is for several runs, and one is named"),
    ],
)
def test_what_cannot_be_added_up_is_refused(words: list[str], said: str, room: Path, luthier: Luthier, tmp_path: Path) -> None:
    given = [room / word if (room / word).is_dir() else word for word in words]
    answer = luthier("merge", *given, "--into", tmp_path / "sum")
    assert answer.code == 2 and said in answer.words and not (tmp_path / "sum").exists()


def test_another_base_and_a_folder_with_something_else_are_refused(room: Path, luthier: Luthier, tmp_path: Path) -> None:
    shutil.copytree(room / "b", tmp_path / "b")
    config = files.read_json(tmp_path / "b" / "model" / "adapter_config.json")
    files.write_json(tmp_path / "b" / "model" / "adapter_config.json", {**config, "base_model_name_or_path": "elsewhere/bert"})
    said = luthier("merge", room / "a", tmp_path / "b", "--into", tmp_path / "sum")
    assert said.code == 2 and "its base is elsewhere/bert" in said.words
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("mine", encoding="utf-8")
    said = luthier("merge", room / "a", room / "b", "--into", tmp_path / "mine")
    assert said.code == 2 and "is no adapter folder" in said.words
    assert luthier("merge", room / "a", room / "b").code == 2
