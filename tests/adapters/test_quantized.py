"""Adapters on a base in 4 or 8 bits: they train, are resumed and served as they were trained, and are merged into whole weights."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from adapted import bench_of, steps_of, train_until
from tiny_decoder import make_tiny_decoder, tiny_instructions, tiny_words, write_instructions, writing_recipe

from luthier import flow
from luthier.adapters.adapter import sizes_of
from luthier.core import files
from luthier.core.errors import ConfigError, SetupError
from luthier.models.quantized import dequantize, layers_in
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.planning import refusal

LORA = {"adapter": {"type": "lora", "r": 4, "alpha": 8}}
SHORT = {"training.max_steps": 8, "training.save_every": "3steps"}
KINDS = ("nf4", "int8")
DATA = Path(os.environ["LUTHIER_DATA"]) if os.environ.get("LUTHIER_DATA") else None
MakeRecipe = Callable[..., dict[str, Any]]
needs_library = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Make a recipe on a tiny decoder with LoRA."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_decoder(folder / "llama", width=64)
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(120))

    def make(output: Path, **changes: Any) -> dict[str, Any]:
        return writing_recipe(Path(changes.pop("model", model)), rows, output, LORA | SHORT | changes)

    return make


@pytest.fixture(scope="module")
def classifying(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Make a recipe on a tiny BERT with LoRA."""
    folder = tmp_path_factory.mktemp("tiny")
    model, rows = tiny.make_tiny_model(folder / "bert", width=64), tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(60))
    return lambda output, **changes: tiny.tiny_recipe(model, rows, output, LORA | SHORT | {"model.extend_vocabulary": False} | changes)


def same_as_trained(run: Path, tmp_path: Path, *, kind: str) -> None:
    """What a finished run promises: it is measured as it was, and merged into plain weights that answer the same."""
    stored = {name: score["value"] for name, score in files.read_json(run / "metrics.json")["scores"]["test"].items()}
    assert {name: score["value"] for name, score in flow.evaluate(run)["scores"]["test"].items()} == pytest.approx(stored, abs=1e-6)
    facts = flow.merge(run, tmp_path / "merged")
    assert facts["dequantized"] == kind and facts["largest_difference"] <= 1e-5
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


@needs_library
@every_kind
def test_a_decoder_is_resumed_served_and_merged_as_it_was_trained(kind: str, writing: MakeRecipe, tmp_path: Path) -> None:
    changes = {"model.quantize": kind}
    run = flow.train(writing(tmp_path / "run", **changes)).path
    losses = [step["loss"] for step in steps_of(run)]
    assert losses[-1] < losses[0]
    stopped = train_until(writing(tmp_path / "stopped", **changes), 4)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(run)
    same_as_trained(run, tmp_path, kind=kind)
    lines = files.read_json_lines(run / "reference.jsonl")
    prompts, inputs = zip(*(line["text"].split("\n") for line in lines), strict=True)
    assert [answer.label for answer in Predictor.open(run).answer(list(prompts), list(inputs))] == [line["label"] for line in lines]


@needs_library
@every_kind
def test_a_classifier_keeps_a_whole_head(kind: str, classifying: MakeRecipe, tmp_path: Path) -> None:
    made = classifying(tmp_path / "run", **{"model.quantize": kind})
    host: Any = bench_of(made).parts["model"].module
    found = layers_in(host)
    assert len(found) == 13 and not any("classifier" in name for name in found)
    trained = {name: p for name, p in host.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 and ("lora_" in name or "classifier" in name) for name, p in trained.items())
    run = flow.train(made).path
    same_as_trained(run, tmp_path, kind=kind)
    lines = files.read_json_lines(run / "reference.jsonl")
    logits = Predictor.open(tmp_path / "merged").outputs([line["text"] for line in lines]).logits_BC
    assert np.abs(logits - np.array([line["logits"] for line in lines])).max() <= 1e-5


@needs_library
def test_plain_peft_on_a_base_in_4_bits_has_the_same_logits(writing: MakeRecipe, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import BitsAndBytesConfig

    run = flow.train(writing(tmp_path / "run", **{"model.quantize": "nf4"})).path
    plain = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoPeftModelForCausalLM.from_pretrained(
        run / "model", quantization_config=plain
    )  # in training mode: see luthier.models.quantized
    for line in files.read_json_lines(run / "reference.jsonl")[:8]:
        with torch.no_grad():
            logits = model.train()(input_ids=torch.tensor([line["tokens"]])).logits[0, -1]
        assert logits[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=1e-5)


@needs_library
@every_kind
def test_only_the_adapter_trains_and_all_numbers_are_counted(kind: str, writing: MakeRecipe, tmp_path: Path) -> None:
    whole = bench_of(writing(tmp_path / "run")).parts["model"].module
    small = bench_of(writing(tmp_path / "run", **{"model.quantize": kind})).parts["model"].module
    assert sizes_of(small) == sizes_of(whole)
    assert {name for name, p in small.named_parameters() if p.requires_grad} == {
        name for name, p in whole.named_parameters() if p.requires_grad
    }

    def bytes_of(module: torch.nn.Module) -> int:
        return sum(p.numel() * p.element_size() for name, p in module.named_parameters() if "_proj.base_layer" in name)

    assert bytes_of(small) * {"nf4": 8, "int8": 4}[kind] == bytes_of(whole)


@needs_library
@every_kind
@pytest.mark.parametrize(
    "adapter",
    [
        {"type": "lora", "r": 4, "dora": True},
        {"type": "adalora", "r": 2, "start_r": 3},
        {"type": "ia3"},
        {"type": "vera", "r": 8},
        {"type": "layernorm"},
        {"type": "prefix-tuning", "num_virtual_tokens": 4},
    ],
    ids=lambda adapter: adapter["type"],
)
def test_other_adapters_train_on_it(adapter: dict[str, Any], kind: str, writing: MakeRecipe, tmp_path: Path) -> None:
    changes = {"adapter": adapter, "model.quantize": kind, "training.max_steps": 3, "data.packing": adapter["type"] != "prefix-tuning"}
    run = flow.train(writing(tmp_path / "run", **changes)).path
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)
    if adapter["type"] != "prefix-tuning":
        assert flow.merge(run, tmp_path / "merged")["largest_difference"] <= 1e-4


@needs_library
@every_kind
def test_measuring_leaves_the_weights_as_they_are(kind: str, writing: MakeRecipe, tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path / "run", **{"model.quantize": kind}))
    host: Any = bench.parts["model"].module.model
    ids = torch.arange(5, 17)[None]

    def logits(*, training: bool) -> torch.Tensor:
        host.train(training)
        with torch.no_grad():
            found: torch.Tensor = host(input_ids=ids).logits
        return found

    before = logits(training=True)
    assert torch.equal(logits(training=False), before) and torch.equal(logits(training=True), before)
    alone, together = logits(training=False)[0], host(input_ids=torch.cat([ids, ids.flip(1)])).logits[0]
    assert torch.allclose(alone, together, atol=1e-5), "a row's answer depends on the other rows"


@needs_library
@every_kind
def test_matrices_that_lie_on_their_side_are_made_whole_as_they_were(kind: str, writing: MakeRecipe, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_words()
    base = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=96, n_embd=64, n_layer=2, n_head=4))
    base.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    run = flow.train(writing(tmp_path / "run", model=tmp_path / "gpt2", **{"model.quantize": kind, "training.max_steps": 3})).path
    same_as_trained(run, tmp_path, kind=kind)
    host: Any = bench_of(writing(tmp_path / "bench", model=tmp_path / "gpt2", **{"model.quantize": kind})).parts["model"].module.model
    dequantize(host)
    found = {name: p for name, p in host.named_parameters() if name.endswith("c_attn.base_layer.weight")}
    wanted = dict(base.named_parameters())
    for name, parameter in found.items():
        plain = wanted[name.replace(".base_layer", "")]
        assert parameter.shape == plain.shape and float((parameter - plain).norm()) <= {"nf4": 0.12, "int8": 0.01}[kind] * float(
            plain.norm()
        )
    assert len(found) == 2


@needs_library
def test_in_bfloat16_it_learns_as_in_float32(writing: MakeRecipe, tmp_path: Path) -> None:
    changes = {"model.quantize": "nf4"}
    run = flow.train(writing(tmp_path / "half", **changes, **{"training.precision": "bf16"})).path
    whole = flow.train(writing(tmp_path / "whole", **changes)).path
    losses = [[step["loss"] for step in steps_of(one)] for one in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=3e-2) and losses[0] != losses[1]
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)
    assert flow.merge(run, tmp_path / "merged")["dequantized"] == "nf4"


@needs_library
def test_matrices_that_4_bits_do_not_fit_stay_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from luthier.models.pretrained import load_model

    def uneven(width: int) -> tuple[Any, Path]:
        config = AutoConfig.from_pretrained(make_tiny_decoder(tmp_path / f"even-{width}", width=width))
        config.intermediate_size = 96
        plain = AutoModelForCausalLM.from_config(config)
        plain.save_pretrained(tmp_path / f"uneven-{width}")
        return plain, tmp_path / f"uneven-{width}"

    _, narrow = uneven(32)
    with pytest.raises(ConfigError, match=r"no matrix of a llama .*rows of a multiple of 64.*model.quantize=int8"):
        load_model(AutoModelForCausalLM, str(narrow), AutoConfig.from_pretrained(narrow), quantize="nf4")
    caplog.set_level(logging.INFO, "luthier")
    plain, folder = uneven(64)
    model = load_model(AutoModelForCausalLM, str(folder), plain.config, quantize="nf4").model
    assert "2 of 14 matrices stay whole: their rows are no multiple of 64 numbers" in caplog.text
    assert len(layers_in(model)) == 12 and not any("down_proj" in name for name in layers_in(model))
    dequantize(model)
    wanted = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert float((parameter - wanted[name]).norm()) <= 0.12 * float(wanted[name].norm()), name


def test_without_the_library_it_says_what_to_install(writing: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest))
    with pytest.raises(SetupError, match="model.quantize=nf4 needs the package bitsandbytes") as caught:
        bench_of(writing(tmp_path / "run", **{"model.quantize": "nf4"}))
    assert "luthier[quantize]" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": None}, "weights in nf4 cannot be trained themselves.*add adapter.type=lora"),
        ({"adapter": {"type": "lora", "start": "pissa"}}, "lora with start pissa does not go with weights in nf4.*adapter.start=default"),
        ({"adapter": {"type": "peft", "method": "BOFT"}}, "peft does not go with weights in nf4"),
        ({"training.parallel": "fsdp2"}, "weights in nf4 cannot be split among processes"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any], said: str, writing: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(writing(tmp_path / "run", **{"model.quantize": "nf4"}, **changes))


def test_a_model_that_fits_in_4_bits_is_not_refused_for_its_size(
    writing: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = refusal.stored_numbers(Path(writing(tmp_path / "run")["model"]["path"]))
    assert numbers is not None
    monkeypatch.setattr(refusal, "_free", lambda: 1.0 * numbers)
    refusal.refuse_oversize(resolve(writing(tmp_path / "run", **{"model.quantize": "nf4"})))
    with pytest.raises(SetupError, match="does not fit"):
        refusal.refuse_oversize(resolve(writing(tmp_path / "run")))


@needs_library
@pytest.mark.real
@pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA is not set")
@every_kind
def test_stories260k_learns_on_a_quantised_base(kind: str, tmp_path: Path) -> None:
    assert DATA is not None
    changes = {"model.quantize": kind, "training.max_steps": 30, "data.max_length": 64, "task": {"type": "text-generation", "samples": 0}}
    text = (DATA / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    (tmp_path / "rows.txt").write_text(text[:20_000], encoding="utf-8")
    made = writing_recipe(DATA / "checkpoints" / "stories260K", tmp_path / "rows.txt", tmp_path / "run", LORA | changes)
    made["optim"]["learning_rate"] = 3e-3
    run = flow.train(made).path
    compared = files.read_json(run / "evaluation.json")["test"]["comparison"]
    assert compared["tuned"] < compared["base"] - 0.2
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)
    assert flow.merge(run, tmp_path / "merged")["largest_difference"] <= 1e-4
