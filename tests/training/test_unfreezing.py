"""Layers that take turns: nothing else moves, new ones start as the optimiser starts, a resume in the middle is exact."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_decoder
import torch
import transformers
from runs import checkpoint_weights, losses, steps_of, train_until, weights_hash
from safetensors.torch import load_file

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.optim.schedules.schedule import Horizon
from luthier.recipe import resolve
from luthier.stages.running.unfreeze import turns_of

MakeRecipe = Callable[..., dict[str, Any]]
STEADY = {"type": "constant", "warmup": "0 steps"}
ADAMW = {"type": "adamw", "learning_rate": 1e-3, "head_learning_rate": 1e-3, "weight_decay": 0.1}
SGD = {"type": "sgd", "learning_rate": 0.05, "head_learning_rate": 0.05}
GRADUAL = {"unfreeze": {"type": "gradual", "every": "3 steps"}}
EVERY_STEP = {"training.max_steps": 12, "training.save_every": "1 step", "training.keep_checkpoints": 20, "evaluate.baseline": False}
LAYERS = {"embeddings": 0, "encoder.layer.0": 1, "encoder.layer.1": 2, "pooler": 3}


def moved_by(run: Path, step: int) -> set[int]:
    """The depths of which something moved at a step."""
    before, after = checkpoint_weights(run, step - 1), checkpoint_weights(run, step)
    names = {name for name in before if not torch.equal(before[name], after[name])}
    return {depth for name in names for piece, depth in LAYERS.items() if name.startswith(f"bert.{piece}.")}


@pytest.mark.parametrize("speed", [True, False])
def test_each_block_has_its_turn_and_nothing_moves_before_it_has(speed: bool, recipe: MakeRecipe) -> None:
    names = ("fast_dropout", "lean_blocks", "needed_positions", "row_embedding", "tiled_attention")
    switches = {"training.speed": dict.fromkeys(names, speed)}
    run = flow.train(recipe("run", {**EVERY_STEP, **GRADUAL, **switches, "optim": ADAMW, "schedule": STEADY})).path
    found = [moved_by(run, step) for step in range(2, 13)]
    assert found == [{3}] * 2 + [{2, 3}] * 3 + [{1, 2, 3}] * 3 + [{0, 1, 2, 3}] * 3, "weight decay included"


def test_the_first_step_of_a_layer_is_as_long_as_its_rate(recipe: MakeRecipe) -> None:
    optim = {**ADAMW, "weight_decay": 0.0, "layer_decay": 0.5}
    run = flow.train(recipe("run", {**EVERY_STEP, **GRADUAL, "optim": optim, "schedule": STEADY})).path
    for block, first, rate in ((1, 4, 5e-4), (0, 7, 2.5e-4)):
        name = f"bert.encoder.layer.{block}.output.dense.weight"
        moved = (checkpoint_weights(run, first)[name] - checkpoint_weights(run, first - 1)[name]).abs().median()
        assert torch.isclose(moved, torch.tensor(rate), rtol=1e-2), "Adam with moments of its own, from nothing"


def test_all_from_the_start_is_the_plain_training(recipe: MakeRecipe) -> None:
    plain = flow.train(recipe("plain", {"training.max_steps": 6, "optim": ADAMW})).path
    at_once = flow.train(recipe("at-once", {"training.max_steps": 6, "optim": ADAMW, "unfreeze": {"type": "gradual", "start": 3}})).path
    assert weights_hash(at_once) == weights_hash(plain) and steps_of(at_once) == steps_of(plain)


@pytest.mark.parametrize(("way", "stopped_after"), [("gradual", 2), ("gradual", 5), ("gradual", 7), ("lisa", 5), ("up", 7)])
def test_a_resume_in_the_middle_is_exact(way: str, stopped_after: int, recipe: MakeRecipe) -> None:
    unfreeze = {"type": "gradual", "every": "3 steps", "order": "up"} if way == "up" else {"type": way, "every": "3 steps"}
    changes = {"training.max_steps": 12, "training.save_every": "2 steps", "evaluate.baseline": False, "optim": ADAMW}
    changes |= {"unfreeze": unfreeze | ({"layers": 1} if way == "lisa" else {})}
    whole = flow.train(recipe("whole", changes)).path
    stopped = train_until(recipe("stopped", changes), stopped_after)
    flow.resume(stopped)
    assert weights_hash(stopped) == weights_hash(whole) and steps_of(stopped) == steps_of(whole)


def test_layers_whose_turn_never_comes_are_computed_once(recipe: MakeRecipe, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {**GRADUAL, "training.max_steps": 6, "evaluate.baseline": False, "optim": SGD}
    with caplog.at_level(logging.INFO, "luthier"):
        cached = recipe("cached", changes)
        found = losses(cached)
    assert "prefix cache: 90 rows" in caplog.text and "from step 1 on: the head alone is trained" in caplog.text
    assert "from step 4 on: the head and block 2 are trained" in caplog.text and "block 1" not in caplog.text
    np.testing.assert_allclose(found, losses(recipe("plain", {**changes, "training.speed": {"prefix_cache": False}})), atol=1e-5)
    before, after = load_file(tiny_model / "model.safetensors"), load_file(Path(cached["output"]) / "model" / "model.safetensors")
    still = [name for name in before if name.startswith(("embeddings.", "encoder.layer.0."))]
    assert still and all(torch.equal(before[name], after[f"bert.{name}"]) for name in still)


def test_where_every_layer_has_its_turn_nothing_is_stored_and_it_is_said(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.train(recipe("run", {**GRADUAL, "training.max_steps": 12, "evaluate.baseline": False}))
    assert "no prefix cache: every layer has its turn" in caplog.text


def test_a_decoder_is_unfrozen_too(tmp_path: Path) -> None:
    model = tiny_decoder.make_tiny_decoder(tmp_path / "llama")
    rows = tiny_decoder.write_instructions(tmp_path / "rows.jsonl", tiny_decoder.tiny_instructions(40))
    settings = {"unfreeze": {"type": "gradual", "every": "2 steps"}, "training.max_steps": 4, "evaluate.baseline": False}
    run = flow.train(tiny_decoder.writing_recipe(model, rows, tmp_path / "run", settings))
    before, after = load_file(model / "model.safetensors"), load_file(run.model / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".layers.1." in name} | {"model.norm.weight"}


def test_what_cannot_take_turns_is_refused(recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unfreeze\.type: .*'lisa'"):
        resolve(recipe("run", {"unfreeze": "lisaa"}))
    with pytest.raises(ConfigError, match=r"unfreeze\.every: .* counts in epochs, steps or %"):
        resolve(recipe("run", {"unfreeze": {"every": "5 tokens"}}))
    with pytest.raises(ConfigError, match=r"unfreeze: an adapter's layers are trained throughout"):
        resolve(recipe("run", {"unfreeze": "gradual", "adapter": {"type": "lora"}}))
    with pytest.raises(ConfigError, match=r"unfreeze: does not go with 2 processes"):
        turns_of(resolve(recipe("two", {"unfreeze": "gradual"})), {}, Horizon(1, 1), 2)
    with pytest.raises(
        ConfigError, match=r"follows the blocks of BertModel, so at some steps nothing would be trained \(.*unfreeze\.start=1"
    ):
        flow.train(recipe("empty", {"unfreeze": "gradual", "model.freeze": ["classifier", "pooler"]}))
    folder = tiny.make_tiny_model(tmp_path / "albert")
    config = transformers.AlbertConfig(
        vocab_size=len(tiny.tiny_vocabulary()), embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2
    )
    transformers.AlbertModel(config).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"unfreeze: .* runs 3 layers but has the weights of 1 \(leave unfreeze out\)"):
        flow.train(recipe("shared", {"unfreeze": "gradual"}, model=folder))
