"""LoRA: little is trained, plain peft loads the result, and a run with it is resumed and served as it was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from adapted import bench_of, steps_of, train_until
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.serve.predictor import Predictor
from luthier.stages.results.measure import outputs_of

LORA = {"adapter": {"type": "lora", "r": 4, "alpha": 8}}
SHORT = {**LORA, "training.max_steps": 12, "training.save_every": "3steps"}
MakeRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Make a recipe on a tiny decoder and tiny instructions."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_decoder(folder / "llama")
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(120))
    return lambda output, changes: writing_recipe(model, rows, output, changes)


@pytest.fixture(scope="module")
def run(writing: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flow.train(writing(tmp_path_factory.mktemp("runs") / "run", SHORT)).path


def trained(bench: Any) -> list[str]:
    return [name for name, parameter in bench.parts["model"].module.named_parameters() if parameter.requires_grad]


def test_only_the_products_are_trained(writing: MakeRecipe, tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path / "run", LORA))
    names = trained(bench)
    assert names and all("lora_" in name for name in names)
    assert {name.split(".")[-4] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {p for group in bench.saved.optimiser.param_groups for p in group["params"]} == {
        p for name, p in bench.parts["model"].module.named_parameters() if name in names
    }


def test_named_targets_alone_are_trained(writing: MakeRecipe, tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path / "run", {"adapter": {"type": "lora", "target_modules": ["q_proj", "v_proj"]}}))
    assert {name.split(".")[-4] for name in trained(bench)} == {"q_proj", "v_proj"}


def test_a_target_that_matches_nothing_is_refused(writing: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing in the model is called 'q_prj'.*q_proj"):
        bench_of(writing(tmp_path / "run", {"adapter": {"type": "lora", "target_modules": ["q_prj"]}}))


def test_plain_peft_has_the_same_logits(run: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(run / "model").eval()
    lines = files.read_json_lines(run / "reference.jsonl")
    base = model.get_base_model()
    for line in lines[:8]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([line["tokens"]])).logits[0, -1]
            with model.disable_adapter():
                untuned = base(input_ids=torch.tensor([line["tokens"]])).logits[0, -1]
        assert logits[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=1e-5)
        assert float((logits - untuned).abs().max()) > 1e-2, "the adapter does nothing"


def test_the_run_is_served_as_it_was_trained(run: Path, writing: MakeRecipe) -> None:
    lines = files.read_json_lines(run / "reference.jsonl")
    prompts, inputs = zip(*(line["text"].split("\n") for line in lines), strict=True)
    assert [answer.label for answer in Predictor.open(run).answer(list(prompts), list(inputs))] == [line["label"] for line in lines]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(
        files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"], abs=1e-6
    )
    facts = files.read_json(run / "evaluation.json")["test"]["comparison"]
    assert facts["base"] > facts["tuned"]


def test_the_base_measured_beside_it_is_the_untouched_model(run: Path, writing: MakeRecipe, tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path / "run", {}))
    found = outputs_of(bench.work, bench.parts, bench.prepared.splits["test"], max_tokens=500, device="cpu")
    base = files.read_json(run / "evaluation.json")["test"]["comparison"]["base"]
    assert base == pytest.approx(float(found.nats_B.sum() / found.tokens_B.sum()), abs=1e-6)


def test_a_checkpoint_has_what_is_trained_alone_and_resumes_bit_by_bit(run: Path, writing: MakeRecipe, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    stopped = train_until(writing(tmp_path / "run", SHORT), 7)
    assert all("lora_" in name for name in load_file(stopped / "checkpoints" / "step-00000006" / "model.safetensors"))
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(run)
    assert files.sha256_file(stopped / "model" / "adapter_model.safetensors") == files.sha256_file(
        run / "model" / "adapter_model.safetensors"
    )


def test_in_bfloat16_the_frozen_weights_are_kept_once(writing: MakeRecipe, tmp_path: Path) -> None:
    changes = {**SHORT, "training.precision": "bf16"}
    bench = bench_of(writing(tmp_path / "bench", changes))
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in bench.parts["model"].module.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    run = flow.train(writing(tmp_path / "half", changes)).path
    whole = flow.train(writing(tmp_path / "whole", SHORT)).path
    losses = [[step["loss"] for step in steps_of(one)] for one in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=3e-2) and losses[0] != losses[1]
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)


def test_a_classifier_keeps_its_head_trained_and_plain_peft_loads_both(recipe: MakeRecipe) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = recipe("run", {"adapter": {"type": "lora", "r": 8, "alpha": 64}, "training.max_steps": 30, "model.extend_vocabulary": False})
    names = trained(bench_of(made))
    assert any("lora_" in name for name in names) and any("classifier" in name for name in names)
    assert all("lora_" in name or "modules_to_save" in name for name in names)
    run = flow.train(made).path
    lines = files.read_json_lines(run / "reference.jsonl")
    saved = load_file(run / "model" / "adapter_model.safetensors")
    assert all(float(tensor.abs().max()) > 1e-3 for name, tensor in saved.items() if "lora_B" in name), "products that never moved from 0"
    assert any(name.startswith("base_model.model.classifier") for name in saved)
    outputs = Predictor.open(run).outputs([line["text"] for line in lines])
    logits = np.array([line["logits"] for line in lines])
    assert np.abs(outputs.logits_BC - logits).max() <= 1e-5
    base = AutoModelForSequenceClassification.from_pretrained(made["model"]["path"], num_labels=3)
    model, tokenizer = PeftModel.from_pretrained(base, run / "model").eval(), AutoTokenizer.from_pretrained(run / "model")
    with torch.no_grad():
        plain = model(**tokenizer([line["text"] for line in lines], padding=True, return_tensors="pt")).logits.numpy()
    assert np.abs(plain - logits).max() <= 1e-5


def test_a_head_of_our_own_is_refused_with_an_adapter(recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match="keeps the head of the model family"):
        bench_of(recipe("run", {**LORA, "model.extend_vocabulary": False, "model.head": {"pooling": "mean"}}))


def test_characters_to_be_added_are_refused_with_an_adapter(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", [(f"{text} Ω", label) for text, label in tiny.tiny_rows(60)])
    with pytest.raises(ConfigError, match=r"model.extend_vocabulary=false"):
        bench_of(recipe("run", LORA, rows=rows))


def test_an_adapter_on_nothing_is_refused(writing: MakeRecipe, tmp_path: Path) -> None:
    made = writing(tmp_path / "run", LORA)
    made["model"] = {"scratch": {"architecture": "gpt2"}, "tokenizer": made["model"]["path"]}
    with pytest.raises(ConfigError, match="stands beside a trained model"):
        bench_of(made)
