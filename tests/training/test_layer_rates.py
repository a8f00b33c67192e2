"""Which rate each parameter learns at: exact per group, in every architecture, and kept by a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_decoder
import torch
import transformers
from runs import steps_of, train_until, weights_hash

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.models.blocks import depths_of
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out, optimiser_of

MakeRecipe = Callable[..., dict[str, Any]]
RATES = {"type": "adamw", "learning_rate": 1e-3, "head_learning_rate": 4e-3, "weight_decay": 0.1}
HALVED = {"optim": {**RATES, "layer_decay": 0.5}, "evaluate.baseline": False}
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def bench_of(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def groups_of(bench: Bench) -> dict[str, tuple[float, float]]:
    """Rate and decay of each group; no parameter that is trained is left out."""
    optimiser = optimiser_of(bench.recipe, bench.parts, bench.new)
    held = [p for group in optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in bench.parts["model"].module.parameters() if p.requires_grad}
    assert all(group["initial_lr"] == group["lr"] for group in optimiser.param_groups)
    return {group["name"]: (group["lr"], group["weight_decay"]) for group in optimiser.param_groups}


def with_vectors(rates: dict[str, float]) -> dict[str, tuple[float, float]]:
    """A group of matrices and one of vectors at each rate."""
    return {f"{name}{end}": (rate, decay) for name, rate in rates.items() for end, decay in (("", 0.1), (", no decay", 0.0))}


def test_each_block_learns_at_its_share(recipe: MakeRecipe) -> None:
    bench = bench_of(recipe("run", HALVED))
    names = [type(module).__name__ for module in bench.parts["model"].module.modules()]
    assert "RowEmbedding" in names, "it learns at the rate of the embeddings"
    rates = {"embeddings": 1.25e-4, "block 1": 2.5e-4, "block 2": 5e-4, "body": 1e-3, "head": 4e-3}
    assert groups_of(bench) == with_vectors(rates)


def test_without_it_the_groups_are_as_they_were(recipe: MakeRecipe) -> None:
    bench = bench_of(recipe("run", {"optim": RATES}))
    assert groups_of(bench) == with_vectors({"body": 1e-3, "head": 4e-3})
    assert "share" not in optimiser_of(bench.recipe, bench.parts, bench.new).param_groups[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_decoders_too(kind: str, tmp_path: Path) -> None:
    model = tiny_decoder.make_tiny_decoder(tmp_path / "llama")
    rows = tiny_decoder.write_instructions(tmp_path / "rows.jsonl", tiny_decoder.tiny_instructions(40))
    changes: dict[str, Any] = dict(HALVED)
    if kind == "gpt2":
        scratch = {"architecture": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 96}
        changes |= {"model": {"scratch": scratch, "tokenizer": str(model)}}
    found = groups_of(bench_of(tiny_decoder.writing_recipe(model, rows, tmp_path / "run", changes)))
    rates = {"embeddings": 1.25e-4, "block 1": 2.5e-4, "block 2": 5e-4, "body": 1e-3}
    wanted = with_vectors(rates)
    assert found == {name: wanted[name] for name in wanted if name not in ("embeddings, no decay", "body")}, "only the last norm is behind"


def test_frozen_layers_are_left_out_and_the_others_keep_their_rates(recipe: MakeRecipe) -> None:
    found = groups_of(bench_of(recipe("run", {**HALVED, "model.freeze": 1})))
    assert found == with_vectors({"block 2": 5e-4, "body": 1e-3, "head": 4e-3})


def test_an_adapter_learns_at_the_share_of_its_block(recipe: MakeRecipe) -> None:
    found = groups_of(bench_of(recipe("run", {**HALVED, "adapter": {"type": "lora", "r": 2}})))
    matrices = {name: rate for name, (rate, decay) in found.items() if decay}
    assert matrices == {"block 1": 2.5e-4, "block 2": 5e-4, "body": 1e-3, "head": 4e-3}


def test_rows_for_new_characters_learn_at_the_rate_of_what_is_new(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", [(f"{text} ж", label) for text, label in tiny.tiny_rows(60)])
    bench = bench_of(recipe("run", HALVED, rows=rows))
    optimiser = optimiser_of(bench.recipe, bench.parts, bench.new)
    (grown,) = [p for name, p in bench.parts["model"].module.named_parameters() if name.endswith(".new")]
    (group,) = [group for group in optimiser.param_groups if any(p is grown for p in group["params"])]
    assert group["name"] == "head" and group["lr"] == 4e-3


@pytest.mark.parametrize("kind", ["deberta-v2", "modernbert", "distilbert", "electra"])
def test_every_architecture_has_depths(kind: str) -> None:
    config = {
        "deberta-v2": lambda: transformers.DebertaV2Config(**SMALL, relative_attention=True, norm_rel_ebd="layer_norm"),
        "modernbert": lambda: transformers.ModernBertConfig(**SMALL, pad_token_id=0, cls_token_id=1, sep_token_id=2),
        "distilbert": lambda: transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32),
        "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=8),
    }[kind]()
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    depths = depths_of(model)
    assert depths.keys() == dict(model.named_parameters()).keys()
    assert {depths[name] for name in depths if "embed" in name} == {0}
    for number in range(3):
        assert {depths[name] for name in depths if f"layer.{number}." in name or f"layers.{number}." in name} == {number + 1}
    assert {depths[name] for name in depths if name.startswith(("classifier", "pooler", "pre_classifier"))} == {4}


def test_a_resumed_run_is_the_uninterrupted_one_and_says_the_rate_of_the_recipe(recipe: MakeRecipe) -> None:
    changes = {**HALVED, "training.max_steps": 8, "training.save_every": "3steps", "schedule": {"type": "constant", "warmup": "0 steps"}}
    whole = flow.train(recipe("whole", changes)).path
    stopped = train_until(recipe("stopped", changes), 4)
    flow.resume(stopped)
    assert weights_hash(stopped) == weights_hash(whole) and steps_of(stopped) == steps_of(whole)
    assert [step["learning_rate"] for step in steps_of(whole)] == pytest.approx([1e-3] * 8, rel=1e-12)


def test_the_first_step_moves_each_block_by_its_rate(recipe: MakeRecipe, tiny_model: Path) -> None:
    from safetensors.torch import load_file

    still = {**HALVED, "training.max_steps": 1, "schedule": {"type": "constant", "warmup": "0 steps"}}
    still["optim"] = {**still["optim"], "weight_decay": 0.0}  # type: ignore[dict-item]
    run = flow.train(recipe("run", still))
    before, after = load_file(tiny_model / "model.safetensors"), load_file(run.model / "model.safetensors")
    for block, rate in ((0, 2.5e-4), (1, 5e-4)):
        name = f"encoder.layer.{block}.output.dense.weight"
        moved = (after[f"bert.{name}"] - before[name]).abs().median()
        assert torch.isclose(moved, torch.tensor(rate), rtol=1e-2), "the first step of Adam is as long as its rate"


def test_globs_give_rates_and_shares_and_the_last_that_fits_counts(recipe: MakeRecipe) -> None:
    rates = {"encoder": "0.1x", "layer.1": 7e-4, "classifier": "2x"}
    found = groups_of(bench_of(recipe("run", {"optim": {**RATES, "rates": rates}})))
    assert found == with_vectors({"body": 1e-3, "encoder of body": 1e-3 * 0.1, "layer.1": 7e-4, "classifier of head": 8e-3})


def test_a_share_is_of_what_layer_decay_leaves(recipe: MakeRecipe) -> None:
    optim = {**RATES, "layer_decay": 0.5, "rates": {"attention": "0.5x", "*.LayerNorm.bias": 1e-5}}
    found = groups_of(bench_of(recipe("run", {"optim": optim})))
    assert found["attention of block 1"] == (1.25e-4, 0.1) and found["block 2"] == (5e-4, 0.1)
    assert found["*.LayerNorm.bias, no decay"] == (1e-5, 0.0)


def test_a_run_with_rates_by_glob_goes_on_exactly(recipe: MakeRecipe) -> None:
    optim = {**RATES, "rates": {"embeddings": "0.1x", "layer.1": 7e-4}}
    changes = {"optim": optim, "evaluate.baseline": False, "training.max_steps": 8, "training.save_every": "3steps"}
    whole = flow.train(recipe("whole", changes)).path
    stopped = train_until(recipe("stopped", changes), 4)
    flow.resume(stopped)
    assert weights_hash(stopped) == weights_hash(whole) and steps_of(stopped) == steps_of(whole)


@pytest.mark.parametrize(
    ("rates", "freeze", "why"),
    [
        ({"layr.1": 1e-4}, None, r"optim\.rates: no parameter of the model fits 'layr\.1' .*'layer\.1'"),
        ({"*": "2x"}, None, r"fits everything that is trained \(set optim\.learning_rate"),
        ({"layer.0": 1e-4}, 1, "everything that 'layer.0' fits is frozen"),
    ],
)
def test_globs_that_fit_nothing_or_everything_are_refused(rates: Any, freeze: int | None, why: str, recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=why):
        bench_of(recipe("run", {"optim": {**RATES, "rates": rates}, "model.freeze": freeze}))


@pytest.mark.parametrize("written", [0, "0x", "x", "fast", -1, True, "nan"])
def test_a_rate_that_is_none_is_refused(written: Any, recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=r"optim\.rates: got .* for 'encoder', wanted a rate above 0"):
        resolve(recipe("run", {"optim.rates": {"encoder": written}}))


@pytest.mark.parametrize("decay", [0, 1.5, -1, "much"])
def test_a_share_that_is_none_is_refused(decay: Any, recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=r"optim\.layer_decay"):
        resolve(recipe("run", {"optim.layer_decay": decay}))


def test_layers_that_share_weights_are_refused_before_anything_is_computed(recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = tiny.make_tiny_model(tmp_path / "albert")
    config = transformers.AlbertConfig(**{**SMALL, "vocab_size": len(tiny.tiny_vocabulary())}, embedding_size=8)
    transformers.AlbertModel(config).save_pretrained(folder)
    with pytest.raises(
        ConfigError, match=r"optim\.layer_decay: .* runs 3 layers but has the weights of 1 \(leave optim\.layer_decay out\)"
    ):
        flow.train(recipe("run", HALVED, model=folder))
