"""The frozen-prefix cache: the same training as without it, found again, bounded on disk, and never trusted unchecked."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from runs import losses, ticks, train_until, weights_hash
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.training.speed import prefix_cache
from luthier.training.speed.prefix_cache import Layout, States

MakeRecipe = Callable[..., dict[str, Any]]
OFF = {"training.speed": {"prefix_cache": False}}
# AdamW moves a weight without a gradient, such as the bias of the keys, by the sign of a rounding error
SGD = {"type": "sgd", "learning_rate": 0.05, "head_learning_rate": 0.05}
PLAIN = {"evaluate.baseline": False, "training.max_steps": 12, "optim": SGD}


@pytest.fixture(autouse=True)
def empty_cache(own_cache: Path) -> None:
    shutil.rmtree(own_cache / "prefix", ignore_errors=True)


def entries(own_cache: Path) -> list[str]:
    folder = own_cache / "prefix"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def weights_of(recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(Path(recipe["output"]) / "model" / "model.safetensors")


def said(caplog: pytest.LogCaptureFixture) -> str:
    found = [record.getMessage() for record in caplog.records if "prefix cache" in record.getMessage()]
    caplog.clear()
    return "\n".join(found)


def make_other_model(kind: str, folder: Path) -> Path:
    """A tiny model of another architecture, with the tokenizer of the tiny BERT."""
    import transformers

    tiny.make_tiny_model(folder)
    size = len(tiny.tiny_vocabulary())
    configs = {
        "distilbert": lambda: transformers.DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=64, pad_token_id=0),
        "roberta": lambda: transformers.RobertaConfig(
            vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, pad_token_id=0
        ),
        "electra": lambda: transformers.ElectraConfig(
            vocab_size=size, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        ),
        "qwen2": lambda: transformers.Qwen2Config(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=64,
            pad_token_id=0,
        ),
    }
    torch.manual_seed(0)
    transformers.AutoModel.from_config(configs[kind]()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("freeze", [1, 2, "body"])
def test_the_training_is_the_one_without_the_cache(
    freeze: Any, dropout: float, recipe: MakeRecipe, tmp_path: Path, own_cache: Path
) -> None:
    model = tiny.make_tiny_model(tmp_path / "model", dropout=dropout)
    changes = {**PLAIN, "model.freeze": freeze}
    cached, plain = recipe("cached", changes, model=model), recipe("plain", {**changes, **OFF}, model=model)
    np.testing.assert_allclose(losses(cached), losses(plain), atol=1e-5)
    assert len(entries(own_cache)) == 1
    one, other = weights_of(cached), weights_of(plain)
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-5


@pytest.mark.parametrize("freeze", [1, "body"])
def test_with_adamw_the_losses_are_the_same_too(freeze: Any, recipe: MakeRecipe) -> None:
    changes = {**PLAIN, "model.freeze": freeze, "optim": {"type": "adamw", "learning_rate": 1e-3, "head_learning_rate": 1e-3}}
    np.testing.assert_allclose(losses(recipe("cached", changes)), losses(recipe("plain", {**changes, **OFF})), atol=1e-5)


@pytest.mark.parametrize("kind", ["distilbert", "gpt2", "roberta", "electra", "qwen2"])
@pytest.mark.parametrize("freeze", [1, "body"])
def test_other_architectures_train_the_same_too(kind: str, freeze: Any, recipe: MakeRecipe, tmp_path: Path, own_cache: Path) -> None:
    model = make_other_model(kind, tmp_path / kind)
    changes = {**PLAIN, "model.freeze": freeze, "training.max_steps": 6}
    cached, plain = recipe("cached", changes, model=model), recipe("plain", {**changes, **OFF}, model=model)
    np.testing.assert_allclose(losses(cached), losses(plain), atol=1e-5)
    assert len(entries(own_cache)) == 1


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "attention"])
def test_heads_of_our_own_train_the_same_too(pooling: str, recipe: MakeRecipe, own_cache: Path) -> None:
    changes = {**PLAIN, "model.freeze": "body", "model.head": {"pooling": pooling, "hidden": [8]}, "training.max_steps": 6}
    np.testing.assert_allclose(losses(recipe("cached", changes)), losses(recipe("plain", {**changes, **OFF})), atol=1e-5)
    (entry,) = entries(own_cache)
    stored = (own_cache / "prefix" / entry / "states.bin").stat().st_size
    assert (stored == 90 * 32 * 4) == (pooling != "attention"), "one vector for each row, but for a pooling that learns"


@pytest.mark.parametrize("freeze", [1, "body"])
@pytest.mark.parametrize("case", ["windows", "pairs", "zero head", "accumulate", "workers", "several labels"])
def test_every_kind_of_batch_is_served(case: str, freeze: Any, recipe: MakeRecipe, tmp_path: Path, own_cache: Path) -> None:
    rows = [(text, label) for text, label in tiny.tiny_rows(60)]
    changes: dict[str, Any] = {**PLAIN, "model.freeze": freeze, "training.max_steps": 6}
    header: tuple[str, ...] = ("text", "label")
    if case == "windows":
        rows = [(" ".join([text] * (1 + number % 3)), label) for number, (text, label) in enumerate(rows)]
        changes |= {"data.max_length": 12, "data.long_texts": "windows", "data.window_stride": 2}
    elif case == "pairs":
        rows, header = [(text, text.split()[0], label) for text, label in rows], ("text", "other", "label")  # type: ignore[misc]
        changes |= {"data.text": "text", "data.text_pair": "other", "data.label": "label"}
    elif case == "zero head":
        changes |= {"model.head": {"start": "zero"}}
    elif case == "accumulate":
        changes |= {"training.batch_size": 3, "training.gradient_accumulation_steps": 2}
    elif case == "workers":
        changes |= {"training.num_workers": 1}
    else:
        rows = tiny.tiny_multi_label_rows(60)
        changes |= {"data.label_separator": "|"}
    path = tiny.write_rows(tmp_path / "rows.csv", rows, header=header)
    cached = ticks(recipe("cached", changes, rows=path))
    plain = ticks(recipe("plain", {**changes, **OFF}, rows=path))
    np.testing.assert_allclose([tick.loss for tick in cached], [tick.loss for tick in plain], atol=1e-5)
    assert [(tick.samples, tick.tokens) for tick in cached] == [(tick.samples, tick.tokens) for tick in plain]
    assert len(entries(own_cache)) == 1


@pytest.mark.parametrize("freeze", [1, "body"])
def test_frozen_weights_stay_bit_for_bit_and_the_others_learn(freeze: Any, recipe: MakeRecipe, tiny_model: Path) -> None:
    changes = recipe("run", {**PLAIN, "model.freeze": freeze})
    flow.train(changes)
    before, after = load_file(tiny_model / "model.safetensors"), weights_of(changes)
    frozen = [name for name in before if freeze == "body" or name.startswith(("embeddings.", "encoder.layer.0."))]
    assert frozen and all(torch.equal(before[name], after[f"bert.{name}"]) for name in frozen)
    trained = [name for name in before if name not in frozen and name.endswith("weight")]
    assert not any(torch.equal(before[name], after[f"bert.{name}"]) for name in trained)
    assert (len(trained) > 0) == (freeze == 1) and float(after["classifier.weight"].abs().max()) > 0


def test_a_second_run_finds_it_and_ends_the_same(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    changes = {**PLAIN, "model.freeze": 1, "training.seed": 3}
    with caplog.at_level(logging.INFO, "luthier"):
        first = flow.train(recipe("one", changes)).path
        assert "prefix cache: 90 rows" in (made := said(caplog)) and "made in" in made
        second = flow.train(recipe("two", changes)).path
        assert said(caplog) == "prefix cache: 90 rows, 0 MiB, reused"
    assert weights_hash(first) == weights_hash(second)


def test_anything_that_changes_the_states_makes_another_entry(recipe: MakeRecipe, tmp_path: Path, own_cache: Path) -> None:
    base = {**PLAIN, "model.freeze": 1, "training.max_steps": 1}
    other_rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(120, seed=1))
    other_model = tiny.make_tiny_model(tmp_path / "model", seed=1)
    runs: list[dict[str, Any]] = [
        recipe("base", base),
        recipe("k", {**base, "model.freeze": 2}),
        recipe("precision", {**base, "training.precision": "bf16"}),
        recipe("rows", base, rows=other_rows),
        recipe("weights", base, model=other_model),
    ]
    for number, run in enumerate(runs, start=1):
        flow.train(run)
        assert len(entries(own_cache)) == number, run["output"]
    flow.train(recipe("rate", {**base, "optim.learning_rate": 1e-3, "training.seed": 5, "training.batch_size": 4}))
    assert len(entries(own_cache)) == len(runs), "what does not change the states reuses them"


@pytest.mark.parametrize("damage", ["a flipped bit", "a cut file", "no starts", "no index"])
def test_a_damaged_entry_is_noticed_and_computed_again(
    damage: str, recipe: MakeRecipe, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {**PLAIN, "model.freeze": 1}
    wanted = weights_hash(flow.train(recipe("one", changes)).path)
    folder = own_cache / "prefix" / entries(own_cache)[0]
    states = folder / "states.bin"
    if damage == "a flipped bit":
        content = bytearray(states.read_bytes())
        content[1000] ^= 64
        states.write_bytes(content)
    elif damage == "a cut file":
        states.write_bytes(states.read_bytes()[:-4])
    else:
        (folder / {"no starts": "starts.npy", "no index": "index.json"}[damage]).unlink()
    with caplog.at_level(logging.INFO, "luthier"):
        assert weights_hash(flow.train(recipe("two", changes)).path) == wanted
    assert "is damaged, and computed again" in (words := said(caplog)) and "made in" in words


def test_wrong_states_in_a_whole_file_are_not_trusted(recipe: MakeRecipe, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {**PLAIN, "model.freeze": 1}
    flow.train(recipe("one", changes))
    folder = own_cache / "prefix" / entries(own_cache)[0]
    states = np.fromfile(folder / "states.bin", np.float32)
    (states + 0.01).astype(np.float32).tofile(folder / "states.bin")
    index = files.read_json(folder / "index.json")
    index["sha256"]["states.bin"] = files.sha256_file(folder / "states.bin")
    files.write_json(folder / "index.json", index)
    with caplog.at_level(logging.WARNING, "luthier"):
        found = losses(recipe("two", changes))
    assert "no prefix cache: what was stored is not what a training step computes" in said(caplog)
    assert found == losses(recipe("plain", {**changes, **OFF}))


def test_over_the_bound_it_is_not_made(recipe: MakeRecipe, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.train(recipe("one", {**PLAIN, "model.freeze": 1, "training.speed": {"prefix_cache_gib": 1e-5}}))
    words = said(caplog)
    assert "it would take 0 MiB" in words or "it would take" in words
    assert "training.speed.prefix_cache_gib allows" in words and entries(own_cache) == []


def test_a_full_disk_means_no_cache(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "free_disk_bytes", lambda path: prefix_cache.LEFT_FREE + 5)
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.train(recipe("one", {**PLAIN, "model.freeze": 1}))
    assert "can be used of the disk" in said(caplog)


def test_random_rows_are_not_stored(recipe: MakeRecipe, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.train(recipe("one", {**PLAIN, "model.freeze": 1, "data.augment": [{"type": "word-dropout"}]}))
    assert "data.augment" in said(caplog) and entries(own_cache) == []


@pytest.mark.parametrize("freeze", [1, "body"])
def test_a_resumed_run_is_the_uninterrupted_one(freeze: Any, recipe: MakeRecipe, own_cache: Path) -> None:
    changes = {**PLAIN, "model.freeze": freeze, "training.save_every": "3steps"}
    whole = flow.train(recipe("whole", changes)).path
    stopped = train_until(recipe("stopped", changes), 7)
    shutil.rmtree(own_cache / "prefix")
    flow.resume(stopped)
    assert weights_hash(stopped) == weights_hash(whole)


def test_entries_not_used_for_longest_make_room(own_cache: Path) -> None:
    layout = Layout(np.full(4, 200), 8, torch.float32)
    pieces = [(np.array([2, 0]), torch.zeros(400, 8)), (np.array([1, 3]), torch.ones(400, 8))]
    room_for_two = int(2.5 * layout.num_bytes)
    one, two = (prefix_cache.make(name, layout, pieces, most_bytes=room_for_two) for name in ("one", "two"))
    for age, folder in enumerate((two, one)):
        os.utime(folder, (1 + age, 1 + age))
    left = own_cache / "prefix" / ".three.999999999.tmp"
    left.mkdir()
    prefix_cache.make("three", layout, pieces, most_bytes=room_for_two)
    assert entries(own_cache) == ["one", "three"], "and what a killed process left is gone"
    assert prefix_cache.opened(one, layout) is not None and one.stat().st_mtime > 2, "reading counts as use"


def test_items_come_back_by_row_and_padded_by_window(own_cache: Path) -> None:
    layout = Layout(np.array([3, 1, 2]), 2, torch.bfloat16)
    pieces = [(np.array([2, 0]), torch.arange(10.0).view(5, 2)), (np.array([1]), torch.tensor([[90.0, 91.0]]))]
    folder = prefix_cache.make("key", layout, pieces, most_bytes=10**9)
    states = prefix_cache.opened(folder, layout)
    assert isinstance(states, States)
    assert states.items(np.array([0, 1, 2]))[:, 0].tolist() == [4, 6, 8, 90, 0, 2]
    assert states.padded(np.array([1, 0]), np.array([1, 2, 1]))[..., 0].tolist() == [[90, 90], [4, 6], [8, 8]]


@pytest.mark.parametrize(("freeze", "why"), [(-1, "from 0 on"), ("boody", "body, or none"), (True, "body, or none"), (1.5, "from 0 on")])
def test_a_wrong_word_is_refused(freeze: Any, why: str, recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        flow.train(recipe("run", {"model.freeze": freeze}))
    assert "model.freeze" in str(caught.value)


def test_more_layers_than_there_are_is_refused(recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match="got 3, but the model has 2 layers"):
        flow.train(recipe("run", {"model.freeze": 3}))


def test_frozen_rows_for_new_characters_are_said(recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", [(f"{text} ж", label) for text, label in tiny.tiny_rows(60)])
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.train(recipe("run", {**PLAIN, "model.freeze": "body", "training.max_steps": 1}, rows=rows))
    assert "characters that were added are frozen too" in caplog.text


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("freeze", [4, "body"])
def test_in_bf16_the_scores_on_real_rows_are_within_the_interval(freeze: Any, tmp_path: Path) -> None:
    if "LUTHIER_DATA" not in os.environ:
        pytest.skip("LUTHIER_DATA is not set")
    common = {"model.freeze": freeze, "training.precision": "bf16", "training.max_steps": 40, "evaluate.baseline": False}
    cached = flow.train("sst2", changes={**common, "output": str(tmp_path / "cached")})
    plain = flow.train("sst2", changes={**common, **OFF, "output": str(tmp_path / "plain")})
    one, other = (files.read_json(run.metrics)["scores"]["test"]["accuracy"] for run in (cached, plain))
    assert other["low"] <= one["value"] <= other["high"] and abs(one["value"] - other["value"]) < 0.01
