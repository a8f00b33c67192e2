"""Runs that train a named part of the model: nothing else moves, by fast modules and plain ones, and a resume is exact."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_decoder
import torch
from runs import losses, train_until, weights_hash
from safetensors.torch import load_file

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.recipe import resolve
from luthier.stages.layout.begin import lay_out

MakeRecipe = Callable[..., dict[str, Any]]
SGD = {"type": "sgd", "learning_rate": 0.05, "head_learning_rate": 0.05}
PLAIN = {"evaluate.baseline": False, "training.max_steps": 8, "training.save_every": "3steps", "optim": SGD}
CASES: dict[str, dict[str, Any]] = {
    "bitfit": {"model.train": "bitfit"},
    "norms": {"model.train": "norms"},
    "a block": {"model.train": ["encoder.layer.1"]},
    "frozen globs": {"model.freeze": ["embeddings", "attention"]},
}
LEARNS = {
    "bitfit": lambda name: name.endswith(".bias"),
    "norms": lambda name: "LayerNorm" in name,
    "a block": lambda name: ".layer.1." in name,
    "frozen globs": lambda name: "attention" not in name and "embeddings" not in name,
}
SLOW_MODULES = dict.fromkeys(("fast_dropout", "lean_blocks", "needed_positions", "row_embedding", "tiled_attention"), False)


@pytest.mark.parametrize("case", CASES)
def test_only_what_is_named_and_the_head_move(case: str, recipe: MakeRecipe, tiny_model: Path) -> None:
    run = flow.train(recipe("run", {**PLAIN, **CASES[case]}))
    before, after = load_file(tiny_model / "model.safetensors"), load_file(run.model / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[f"bert.{name}"])}
    assert moved and all(LEARNS[case](f".{name}") for name in moved)
    still = {name for name in before if LEARNS[case](f".{name}")} - moved
    assert all("key.bias" in name or "pooler" in name for name in still), "the scores do not depend on the bias of the keys"
    assert float(after["classifier.bias"].abs().max()) > 0


@pytest.mark.parametrize("case", CASES)
def test_fast_modules_train_it_as_plain_ones_do(case: str, recipe: MakeRecipe, tmp_path: Path) -> None:
    from tiny import make_tiny_model

    still = {**PLAIN, **CASES[case], "model.head": {"dropout": 0.0}}
    model = make_tiny_model(tmp_path / "model", dropout=0.0)
    fast, plain = (recipe(name, still, model=model) for name in ("fast", "plain"))
    plain["training"]["speed"] = {**SLOW_MODULES, "prefix_cache": False}
    np.testing.assert_allclose(losses(fast), losses(plain), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(case: str, recipe: MakeRecipe) -> None:
    changes = {**PLAIN, **CASES[case], "optim": {"type": "adamw", "learning_rate": 1e-3, "head_learning_rate": 1e-3}}
    whole = flow.train(recipe("whole", changes)).path
    stopped = train_until(recipe("stopped", changes), 4)
    flow.resume(stopped)
    assert weights_hash(stopped) == weights_hash(whole)


def test_what_lies_below_a_named_block_is_computed_once(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "luthier"):
        flow.train(recipe("run", {**PLAIN, **CASES["a block"], "training.max_steps": 1}))
    assert "everything but the head and what fits encoder.layer.1 is frozen" in caplog.text and "prefix cache: 90 rows" in caplog.text


@pytest.mark.parametrize("changes", [{"model.freeze": 1}, {"model.train": "norms"}])
def test_a_decoder_can_be_frozen_too(changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_decoder.make_tiny_decoder(tmp_path / "llama")
    rows = tiny_decoder.write_instructions(tmp_path / "rows.jsonl", tiny_decoder.tiny_instructions(40))
    settings = {**changes, "evaluate.baseline": False, "training.max_steps": 3}
    with caplog.at_level(logging.INFO, "luthier"):
        run = flow.train(tiny_decoder.writing_recipe(model, rows, tmp_path / "run", settings))
    before, after = load_file(model / "model.safetensors"), load_file(run.model / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learns = (
        (lambda name: ".layers.1." in name or name == "model.norm.weight") if "model.freeze" in changes else (lambda name: "norm" in name)
    )
    assert moved == {name for name in before if learns(name)}
    assert ("no prefix cache: it is there for classifiers only" in caplog.text) == ("model.freeze" in changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model.train": "biases"}, "wanted bitfit, norms, or a list of globs"),
        ({"model.train": []}, "wanted names of parameters or globs"),
        ({"model.freeze": [1]}, "wanted names of parameters or globs"),
        ({"model.train": "norms", "model.freeze": 1}, "name one of the two"),
        ({"model.train": "norms", "adapter": {"type": "lora"}}, r"model\.train: an adapter freezes everything but itself"),
        ({"model.freeze": 1, "adapter": {"type": "lora"}}, r"model\.freeze: an adapter freezes everything but itself"),
    ],
)
def test_what_says_nothing_or_two_things_is_refused(changes: dict[str, Any], why: str, recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=why):
        resolve(recipe("run", changes))


def test_a_gpt2_that_writes_trains_its_biases_and_has_no_head_beside_its_words(tmp_path: Path) -> None:
    model = tiny_decoder.make_tiny_decoder(tmp_path / "llama")
    rows = tiny_decoder.write_instructions(tmp_path / "rows.jsonl", tiny_decoder.tiny_instructions(40))
    scratch = {"architecture": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 96}
    changes = {**PLAIN, "model": {"scratch": scratch, "tokenizer": str(model), "train": "bitfit"}}
    recipe = resolve(tiny_decoder.writing_recipe(model, rows, tmp_path / "run", changes))
    module = lay_out(recipe, flow.prepare(recipe)).parts["model"].module
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert names == {name for name, _ in module.named_parameters() if name.endswith(".bias")} and len(names) > 10
    changes["model"] = {"scratch": scratch, "tokenizer": str(model), "freeze": "body"}
    recipe = resolve(tiny_decoder.writing_recipe(model, rows, tmp_path / "run", changes))
    with pytest.raises(ConfigError, match=r"GPT2Model gives the scores of words with its word table: nothing would be left to train"):
        lay_out(recipe, flow.prepare(recipe))
