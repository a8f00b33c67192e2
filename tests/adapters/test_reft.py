"""ReFT: which positions are changed, however rows are laid out, cut into threads, or read from a cache."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from adapted import bench_of, steps_of, train_until
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe
from tiny_seq2seq import make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs
from transformers import DynamicCache

from luthier import flow
from luthier.adapters.injection.edits import chosen_of
from luthier.adapters.injection.of_peft import host_of
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.models.lean.bert import LeanForward
from luthier.models.outline import outlined
from luthier.models.packed import packed_inputs
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import lay_out
from luthier.stages.planning.shape import without_content
from luthier.training.inference import measuring

SHORT = {"training.max_steps": 8, "training.save_every": "3steps", "optim.learning_rate": 1e-2}
RIGHT = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
LEFT = [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]


def reading(folder: Path, output: str, **changes: Any) -> dict[str, Any]:
    """A recipe on a tiny encoder."""
    if not (folder / "bert").exists():
        tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(80))
        tiny.make_tiny_model(folder / "bert")
    return tiny.tiny_recipe(folder / "bert", folder / "rows.csv", folder / output, {"model.extend_vocabulary": False, **changes})


def writing(folder: Path, output: str, **changes: Any) -> dict[str, Any]:
    """A recipe on a tiny decoder."""
    if not (folder / "llama").exists():
        write_instructions(folder / "rows.jsonl", tiny_instructions(80))
        make_tiny_decoder(folder / "llama")
    return writing_recipe(folder / "llama", folder / "rows.jsonl", folder / output, changes)


def disturb(bench: Any) -> None:
    """Noise on all that is trained."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in bench.parts["model"].module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize(
    ("given", "first", "last", "wanted"),
    [
        ({"ids": 6}, 2, 0, [[1, 1, 0, 0, 0, 0]]),
        ({"ids": 6}, 1, 2, [[1, 0, 0, 0, 1, 1]]),
        ({"ids": 6, "attention_mask": RIGHT}, 1, 1, [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 1]]),
        ({"ids": 6, "attention_mask": LEFT}, 2, 0, [[0, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]),
        ({"ids": 1, "attention_mask": LEFT}, 5, 0, [[1], [0]]),  # what is new after a cache
        ({"ids": 2, "past_key_values": 3}, 4, 0, [[1, 0]]),  # and where no mask tells
        ({"ids": 6, "position_ids": [[0, 1, 2, 0, 1, 2]]}, 2, 0, [[1, 1, 0, 1, 1, 0]]),  # rows laid end to end
    ],
)
def test_the_positions_are_those_of_each_row(given: dict[str, Any], first: int, last: int, wanted: list[list[int]]) -> None:
    tensors: dict[str, Any] = {name: torch.tensor(value) for name, value in given.items() if name not in ("ids", "past_key_values")}
    if "past_key_values" in given:
        cache = tensors["past_key_values"] = DynamicCache()
        cache.update(*torch.zeros(2, 1, 1, given["past_key_values"], 4), 0)
    ids = torch.zeros(len(given.get("attention_mask", [0])), given["ids"], dtype=torch.long)
    assert chosen_of({"input_ids": ids, **tensors}, first, last).int().tolist() == wanted


@pytest.mark.parametrize("settings", [{"first": 2, "last": 2}, {"first": "all"}, {"first": 1, "layers": [1]}])
def test_the_answer_to_a_text_does_not_depend_on_what_it_is_padded_to_nor_on_lean_blocks(settings: dict[str, Any], tmp_path: Path) -> None:
    adapter = {"type": "reft", "r": 2, **settings}
    found = []
    for lean in (True, False):
        bench = bench_of(reading(tmp_path, "run", adapter=adapter, **{"training.speed.lean_blocks": lean}))
        disturb(bench)
        host, split = host_of(bench.parts["model"].module)[0], bench.prepared.splits["train"]
        assert isinstance(host.bert.encoder.layer[0].forward, LeanForward) == lean
        order = np.argsort(split.num_tokens_N)
        rows = [split.row(int(row)) for row in (order[0], order[-1])]
        assert len(rows[0].windows[0]) < len(rows[1].windows[0])
        with measuring(bench.parts):
            together = bench.work.outputs(bench.parts, bench.work.collate(rows)).logits_BC
            alone = [bench.work.outputs(bench.parts, bench.work.collate([row])).logits_BC[0] for row in rows]
            with bench.recipe.adapter.switched_off(bench.parts["model"].module):
                without = bench.work.outputs(bench.parts, bench.work.collate(rows)).logits_BC
        assert np.abs(together - np.array(alone)).max() <= 1e-5 and np.abs(together - without).max() > 1e-3
        found.append(together)
    assert np.abs(found[0] - found[1]).max() <= 1e-5


def test_rows_laid_end_to_end_are_changed_as_each_by_itself(tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path, "run", adapter={"type": "reft", "first": 3}))
    disturb(bench)
    host = host_of(bench.parts["model"].module)[0]
    documents = [np.arange(4, 11), np.arange(5, 14)]
    with measuring(bench.parts):
        packed = host(**packed_inputs([documents]).inputs, use_cache=False).logits[0]
        alone = torch.cat([host(input_ids=torch.from_numpy(each)[None], use_cache=False).logits[0] for each in documents])
    assert float((packed - alone).abs().max()) <= 1e-5


def test_with_a_cache_it_writes_what_it_writes_without(tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path, "run", adapter={"type": "reft", "first": 5}))
    disturb(bench)
    host = host_of(bench.parts["model"].module)[0]
    ids, mask = torch.tensor([[3, 3, 8, 9], [5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with measuring(bench.parts):
        logits = [
            torch.stack(host.generate(input_ids=ids, attention_mask=mask, use_cache=cache, **settings).logits) for cache in (True, False)
        ]
        with bench.recipe.adapter.switched_off(bench.parts["model"].module):
            untuned = torch.stack(host.generate(input_ids=ids, attention_mask=mask, **settings).logits)
    assert float((logits[0] - logits[1]).abs().max()) <= 1e-5
    assert float((logits[0] - untuned).abs().max()) > 1e-3


def test_a_copy_changes_its_own_rows(tmp_path: Path) -> None:
    bench = bench_of(reading(tmp_path, "run", adapter={"type": "reft", "first": 2}))
    disturb(bench)
    module = bench.parts["model"].module
    copied = copy.deepcopy(module)
    short, long = (torch.arange(5, 5 + length)[None] for length in (6, 9))
    with measuring(bench.parts), torch.no_grad():
        wanted = module(input_ids=long).logits
        module(input_ids=short)
        assert torch.equal(copied.eval()(input_ids=long).logits, wanted)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_resumed_measured_and_served_as_it_was_trained(precision: str, tmp_path: Path) -> None:
    changes = {**SHORT, "adapter": {"type": "reft", "r": 2, "first": 2, "last": 1}, "training.precision": precision}
    run = flow.train(reading(tmp_path, "run", **changes)).path
    stopped = train_until(reading(tmp_path, "stopped", **changes), 4)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(run)
    stored = files.read_json(run / "metrics.json")
    assert stored["parameters"]["adapter"] == 2 * (2 * 32 * 2 + 2)
    assert flow.evaluate(run)["scores"]["test"] == stored["scores"]["test"]
    lines = files.read_json_lines(run / "reference.jsonl")
    found = Predictor.open(run).outputs([line["text"] for line in lines]).logits_BC
    assert np.abs(found - np.array([line["logits"] for line in lines])).max() <= (1e-5 if precision == "fp32" else 0.02)
    with pytest.raises(ConfigError, match="reft is no change of weights"):
        flow.merge(run)


def test_a_decoder_learns_with_it_and_writes_as_it_was_measured(tmp_path: Path) -> None:
    run = flow.train(writing(tmp_path, "run", **SHORT, adapter={"type": "reft", "first": 6})).path
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)
    lines = files.read_json_lines(run / "reference.jsonl")
    prompts, inputs = zip(*(line["text"].split("\n") for line in lines), strict=True)
    assert [answer.label for answer in Predictor.open(run).answer(list(prompts), list(inputs))] == [line["label"] for line in lines]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for settings, said in (
        ({"layers": [2]}, r"adapter.layers: got \[2\], and the blocks of the model are 0 to 1"),
        ({"first": 0}, "adapter.first: no position would be changed"),
        ({"r": 33}, "adapter.r: got 33, and the states of the model have 32 numbers"),
    ):
        with pytest.raises(ConfigError, match=said):
            bench_of(reading(tmp_path, "run", adapter={"type": "reft", **settings}))
    with pytest.raises(ConfigError, match=r"adapter.last: while a decoder learns whole rows.*adapter.last=0"):
        bench_of(writing(tmp_path, "run", adapter={"type": "reft", "last": 2}))


def test_a_plan_with_fewer_layers_has_them_after_its_last(tmp_path: Path) -> None:
    made = resolve(reading(tmp_path, "run", adapter={"type": "reft", "layers": [1]}))
    prepared = flow.prepare(made)
    with without_content(), outlined(1):
        planned = lay_out(made, prepared)
    assert any("encoder.layer.0.reft" in name for name, p in planned.parts["model"].module.named_parameters() if p.requires_grad)


def test_its_weights_are_not_decayed(tmp_path: Path) -> None:
    groups = bench_of(writing(tmp_path, "run", adapter={"type": "reft"})).saved.optimiser.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0}


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_both_halves_of_an_encoder_decoder_are_changed_each_at_its_own_positions(family: str, tmp_path: Path) -> None:
    base, rows = make_tiny_seq2seq(tmp_path / family, family=family), write_pairs(tmp_path / "rows.jsonl", tiny_pairs(60))
    bench = bench_of(pairs_recipe(base, rows, tmp_path / "run", {"adapter": {"type": "reft", "r": 2, "first": 2}}))
    disturb(bench)
    host = host_of(bench.parts["model"].module)[0]
    ids, mask = torch.tensor([[6, 8, 1, 0, 0], [5, 9, 7, 10, 1]]), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with measuring(bench.parts):
        cached, anew = (
            torch.stack(host.generate(input_ids=ids, attention_mask=mask, use_cache=cache, **settings).logits) for cache in (True, False)
        )
        alone = torch.stack(host.generate(input_ids=ids[:1, :3], attention_mask=mask[:1, :3], **settings).logits)
    assert float((cached - anew).abs().max()) <= 1e-4 and float((cached[:, :1] - alone).abs().max()) <= 1e-4
    named = {name.removesuffix(".reft") for name, module in host.named_modules() if name.endswith(".reft")}
    stack = "block" if family == "t5" else "layers"
    start = "" if family == "t5" else "model."
    assert named == {f"{start}{side}.{stack}.{place}" for side in ("encoder", "decoder") for place in (0, 1)}
