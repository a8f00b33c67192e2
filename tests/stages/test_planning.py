"""The plan: sizes are those of the real model, memory is split by what needs it, and what does not fit names the keys to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from luthier import flow
from luthier.core.errors import ConfigError, SetupError
from luthier.models.lean.row_embedding import RowEmbedding
from luthier.models.outline import outlined, shortened
from luthier.models.quantized import layers_in
from luthier.recipe import resolve
from luthier.stages.layout.begin import lay_out
from luthier.stages.planning import memory, plan, refusal, trial
from luthier.stages.planning.duration import here
from luthier.stages.planning.hardware import known, named
from luthier.stages.planning.memory import Memory, changes_that_fit
from luthier.stages.planning.passes import passes_of
from luthier.stages.planning.shape import Kept, at_depth, depths, kept_of, shape_of
from luthier.stages.planning.steps import steps_of
from luthier.stages.planning.trial import Trial
from luthier.training.precision import autocast

Make = Callable[..., dict[str, Any]]
TRIED = Trial([10.0, 20.0], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2], 0.05, 0.001, 0.0, 1.0, 2**20, 2**30)


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with 7 layers."""
    from transformers import AutoConfig, BertModel

    folder = tiny.make_tiny_model(tmp_path_factory.mktemp("models") / "deep")
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = 7
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a known trial instead of a real one, which starts processes."""
    monkeypatch.setattr(plan, "trial_of", lambda *given, **named: TRIED)


@pytest.mark.parametrize("head", [{}, {"model.head": {"pooling": "mean", "hidden": [8]}}])
def test_sizes_are_those_of_the_real_model(head: dict[str, Any], deep_model: Path, recipe: Make) -> None:
    resolved = resolve(recipe("run", head, model=deep_model))
    prepared = flow.prepare(resolved)
    shape = shape_of(resolved, prepared)
    whole = resolve(recipe("run", {**head, "training.speed.row_embedding": False}, model=deep_model))
    module, plain = (lay_out(one, prepared).parts["model"].module for one in (resolved, whole))
    assert shape.parameters == sum(p.numel() for p in plain.parameters())
    assert shape.trainable == sum(p.numel() for p in module.parameters()) < shape.parameters
    rest = sum(m.rest.numel() for m in module.modules() if isinstance(m, RowEmbedding))
    assert shape.layers == 7 and shape.weight_bytes == 4 * (shape.trainable + rest)
    tables = sum(m.weight.numel() for m in module.modules() if isinstance(m, (torch.nn.Embedding, RowEmbedding)))
    assert shape.matrices == shape.passed_matrices == sum(p.numel() for p in module.parameters() if p.ndim == 2) - tables


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_kept_is_what_the_real_model_keeps(precision: str, deep_model: Path, recipe: Make) -> None:
    resolved = resolve(recipe("run", {"training.precision": precision}, model=deep_model))
    prepared = flow.prepare(resolved)
    bench = lay_out(resolved, prepared)
    split = prepared.splits["train"]
    row = int(split.longest_window_N.argmax())
    batch = bench.work.collate([split.row(row)] * 8)
    weights = {p.untyped_storage().data_ptr() for p in bench.parts["model"].module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision, "cpu"):
        bench.work.losses(bench.parts, batch)
    real = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    assert kept_of(resolved, prepared, row, 7).of(8) == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({}, (0, 0)),
        ({"training.ema": 0.9}, (1, 0)),
        ({"training.swa": {}}, (1, 0)),
        ({"training.mixout": 0.1, "training.l2_sp": 1.0}, (0, 2)),
        ({"training.step_rule": "sam"}, (1, 0)),
        ({"training.l2_sp": 1.0}, (0, 1)),
        ({"training.ema": 0.9, "training.l2_sp": 1.0, "training.step_rule": "sam", "model.freeze": 3}, (2, 1)),
    ],
    ids=str,
)
def test_copies_of_weights_are_counted(changes: dict[str, Any], copies: tuple[int, int], deep_model: Path, recipe: Make) -> None:
    resolved = resolve(recipe("run", changes, model=deep_model))
    prepared = flow.prepare(resolved)
    shape, bench = shape_of(resolved, prepared), lay_out(resolved, prepared)
    named = [(name, p) for name, p in bench.parts["model"].module.named_parameters() if p.requires_grad]
    trained, pretrained = (sum(p.nbytes for name, p in named if not new or name not in bench.new) for new in (False, True))
    assert 0 < pretrained < trained == shape.gradient_bytes
    assert shape.copied_bytes == copies[0] * trained + copies[1] * pretrained


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lion", "lamb", "adafactor", "muon", "soap", "schedule-free"])
def test_what_the_optimiser_keeps_is_what_it_keeps_in_a_run(name: str, deep_model: Path, recipe: Make) -> None:
    changes = {"optim": {"type": name, "learning_rate": 1e-3, "head_learning_rate": 1e-3}, "schedule": "constant"}
    resolved = resolve(recipe("run", changes, model=deep_model))
    prepared = flow.prepare(resolved)
    shape, bench = shape_of(resolved, prepared), lay_out(resolved, prepared)
    optimiser = bench.saved.optimiser
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    kept = [value for values in optimiser.state_dict()["state"].values() for value in values.values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in kept if tensor.numel() > 1) == shape.optimiser_bytes


def test_layers_follow_by_straight_line() -> None:
    assert depths(4) == depths(None) == (0,) and depths(12) == (1, 4)
    assert at_depth([10.0, 16.0], 12) == 32.0 and at_depth([7.0], 2) == 7.0


def test_an_outline_reads_no_weights(deep_model: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve(recipe("run", model=deep_model))
    prepared = flow.prepare(resolved)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *given: pytest.fail("weights were read"))
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.from_pretrained", lambda *given, **named: pytest.fail("loaded"))
    with outlined(3):
        module: Any = lay_out(resolved, prepared).parts["model"].module
    assert len(module.base_model.encoder.layer) == 3
    shape_of(resolved, prepared)


def test_lists_with_an_entry_per_layer_are_cut_too() -> None:
    from transformers import Qwen2Config

    config = Qwen2Config(num_hidden_layers=6)
    short = shortened(config, 2)
    assert short.num_hidden_layers == len(short.layer_types) == 2 and config.num_hidden_layers == len(config.layer_types) == 6


def test_steps_are_those_of_the_run(recipe: Make) -> None:
    changes = {"training.max_steps": 7, "training.gradient_accumulation_steps": 2, "evaluate.baseline": False}
    resolved = resolve(recipe("run", changes))
    steps = steps_of(resolved, flow.prepare(resolved))
    run = flow.train(recipe("run", changes)).path
    ticks = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines() if '"tokens"' in line]
    assert steps.num_steps == len(ticks) == 7 and steps.num_micro <= 14
    assert steps.tokens == pytest.approx(ticks[-1]["tokens"], rel=0.1)
    assert len(steps.largest) <= 8 and steps.padded_M.max() >= steps.longest_M.max()


def test_time_goes_by_the_trial(recipe: Make) -> None:
    resolved = resolve(recipe("run", {"training.max_steps": 10, "evaluate.baseline": False, "model.head.start": "zero"}))
    prepared = flow.prepare(resolved)
    steps = replace(steps_of(resolved, prepared), padded_M=np.array([10.0, 30.0]), num_micro=10.0)
    found = here(resolved, prepared, steps, TRIED, start=5.0)
    assert found.steps == pytest.approx(10 * 0.2 + 10 * 0.05), "0.01 s a token, and 0.05 s an update"
    assert found.start == pytest.approx(6.0) and found.low < found.total < found.high


@pytest.mark.parametrize(("available", "keys"), [(2000, []), (900, ["training.batch_size=8", "training.gradient_accumulation_steps=8"])])
def test_the_keys_to_change_keep_the_rows_of_a_step(available: int, keys: list[str], recipe: Make) -> None:
    resolved = resolve(recipe("run", {"training.batch_size": 32, "training.gradient_accumulation_steps": 2}))
    needed = Memory(100, 100, 200, 1000, 100, available)
    assert changes_that_fit(resolved, needed, Kept(0, 1000 / 32, 1), 32) == (keys if available < 1600 else [])


def test_where_one_row_is_too_much_the_model_is_named(recipe: Make) -> None:
    resolved = resolve(recipe("run", {"training.precision": "fp32"}))
    changes = changes_that_fit(resolved, Memory(100, 100, 200, 1000, 100, 300), Kept(0, 100, 1), 10)
    assert changes[0] == "training.precision=bf16" and "data.max_length=128" in changes


def test_other_hardware_is_calculated_and_said_to_be(recipe: Make, no_trial: None) -> None:
    found = flow.plan(recipe("run"), hardware=["a100-80g", "t4-16g"], price=2.0, pretraining=True)
    mine, big, small = found["machines"]
    assert mine["basis"].startswith("measured") and big["basis"] == small["basis"] == "calculated, not measured"
    assert big["memory"]["available"] == 80 * 2**30 and big["seconds"]["total"] <= small["seconds"]["total"]
    assert mine["cost"]["total"] == pytest.approx(mine["seconds"]["total"] / 1800, abs=1e-3)
    assert mine["memory"]["total"] == pytest.approx(2**30, abs=4), "what the trial's process took"
    assert found["pretraining"]["tokens"] == 20 * found["parameters"]["all"]


def test_half_precision_is_not_used_where_there_is_none() -> None:
    assert named("t4-16g").flops("bf16") == named("t4-16g").fp32_flops < named("t4-16g").half_flops
    assert named("h100-80g").flops("bf16") == named("h100-80g").half_flops
    assert all(machine.memory_bytes > 2**33 and machine.bandwidth > 1e11 for machine in known().values())


def test_a_machine_that_is_not_known(recipe: Make) -> None:
    with pytest.raises(ConfigError, match="unknown hardware 'a100-80'") as caught:
        flow.plan(recipe("run"), hardware=["a100-80"])
    assert "a100-80g" in str(caught.value)


def test_other_hardware_needs_the_copies_too(recipe: Make, no_trial: None) -> None:
    plain, averaged = (flow.plan(recipe("run", changes), hardware=["t4-16g"])["machines"] for changes in ({}, {"training.ema": 0.9}))
    needed = averaged[1]["memory"]
    assert needed["copies"] == needed["gradients"] > 0 == plain[1]["memory"]["copies"]
    assert needed["total"] == pytest.approx(
        sum(value for name, value in needed.items() if name not in ("total", "available", "fits")), abs=4
    )
    assert averaged[0]["memory"]["total"] == pytest.approx(plain[0]["memory"]["total"], abs=4), "the trial has measured them"


def test_rows_are_assumed_where_there_are_none(recipe: Make, no_trial: None) -> None:
    found = flow.plan(recipe("run"), assume=(50, 20))
    assert found["assumed"] == {"rows": 50, "tokens": 20} and found["rows"] == 50 and found["longest"] == 20


def test_a_real_trial(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.0)
    found = flow.plan(recipe("run"), fresh=True)["machines"][0]
    assert found["memory"]["total"] > 100 * 2**20 and found["memory"]["fits"]
    assert 0 < found["seconds"]["steps"] < 60 and found["seconds"]["low"] < found["seconds"]["high"]
    monkeypatch.setattr(trial, "_in_process", lambda *given: pytest.fail("the trial was done before"))
    again = flow.plan(recipe("run"))["machines"][0]
    assert again["seconds"]["steps"] == found["seconds"]["steps"]


@pytest.mark.slow
def test_the_run_itself_may_be_begun(recipe: Make, tmp_path: Path) -> None:
    changes = {"evaluate.baseline": False, "training.max_steps": 40}
    found = flow.plan(recipe("run", changes), measure=True)["machines"][0]
    assert found["basis"] == "measured on the first 4 steps of the run itself" and not (tmp_path / "run").exists()
    assert found["memory"]["total"] > 200 * 2**20 and 0 < found["seconds"]["step"] < 5


# ---- refused before it is loaded


def claims(folder: Path, numbers: int) -> Path:
    """Make a model folder whose file says that it holds so many numbers."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = json.dumps({"__metadata__": {}, "weight": {"dtype": "F32", "shape": [numbers, 1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    return folder


def test_a_model_that_cannot_fit_is_refused_before_loading(tmp_path: Path, recipe: Make) -> None:
    huge = claims(tmp_path / "huge", 10**12)
    with pytest.raises(SetupError, match="does not fit") as caught:
        flow.train(recipe("run", model=huge))
    assert "luthier plan" in str(caught.value) and "refuse_oversize=false" in str(caught.value)


def test_what_is_refused_and_what_is_not(tmp_path: Path, recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = claims(tmp_path / "model", 1000)
    monkeypatch.setattr(refusal, "_free", lambda: 10_000.0)
    with pytest.raises(SetupError, match="does not fit") as caught:
        refusal.refuse_oversize(resolve(recipe("run", model=model)))
    assert "optim.type=adafactor" in str(caught.value), "4,000 weights, 4,000 gradients, 400 states fit"
    refusal.refuse_oversize(resolve(recipe("run", {"training.refuse_oversize": False}, model=model)))
    monkeypatch.setattr(refusal, "_free", lambda: 14_000.0)
    refusal.refuse_oversize(resolve(recipe("run", model=model)))


def test_files_that_cannot_be_read_refuse_nothing(tmp_path: Path) -> None:
    assert refusal.stored_numbers(tmp_path / "no") is None
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    assert refusal.stored_numbers(tmp_path) is None
    assert memory.available_memory_bytes() > 2**20


def test_a_teacher_is_counted(deep_model: Path, recipe: Make, tmp_path: Path, no_trial: None) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path / "teacher"
    config = BertConfig.from_pretrained(deep_model, num_labels=3)
    teacher = BertForSequenceClassification(config)
    teacher.save_pretrained(folder)
    AutoTokenizer.from_pretrained(deep_model).save_pretrained(folder)
    without, kept, asked = (
        flow.plan(recipe("run", changes), hardware=["t4-16g"])
        for changes in ({}, {"distill": {"teacher": str(folder)}}, {"distill": {"teacher": str(folder), "cache": False}})
    )
    size = sum(p.numel() for p in teacher.parameters())
    assert "teacher" not in without and kept["teacher"] == {"parameters": size, "passes": 1.0}
    assert asked["teacher"]["passes"] == pytest.approx(asked["steps"] / 12, abs=0.5)
    for plain, taught in zip(without["machines"], kept["machines"], strict=True):
        assert taught["memory"]["weights"] - plain["memory"]["weights"] == 4 * size
    seconds = [found["machines"][0]["seconds"] for found in (without, kept, asked)]
    products = sum(p.numel() for name, p in teacher.named_parameters() if p.ndim == 2 and "embeddings" not in name)
    per_pass = (
        without["padded_tokens"] / asked["teacher"]["passes"] * TRIED.answer_seconds * products / without["parameters"]["in_products"]
    )
    assert seconds[1]["start"] - seconds[0]["start"] == pytest.approx(per_pass, rel=1e-3)
    assert seconds[2]["steps"] - seconds[0]["steps"] == pytest.approx(per_pass * asked["teacher"]["passes"], rel=1e-3)


# ---- more than one pass of the new rows


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"training.step_rule": "sam"}, 2),
        ({"training.step_rule": "fgm"}, 2),
        ({"training.step_rule": {"type": "pgd", "steps": 4}}, 5),
        ({"training.step_rule": {"type": "freelb", "steps": 3}}, 3),
        ({"loss": {"r_drop": 1.0}}, 2),
        ({"loss": {"smart": {"steps": 2}}}, 4),
        ({"loss": {"r_drop": 1.0, "smart": {}}, "training.step_rule": "sam"}, 8),
    ],
    ids=str,
)
def test_passes_are_those_that_a_step_makes(changes: dict[str, Any], passes: int, still_model: Path, recipe: Make) -> None:
    resolved = resolve(recipe("run", {**changes, "training.speed.lean_blocks": False}, model=still_model))
    prepared = flow.prepare(resolved)
    bench, gone = lay_out(resolved, prepared), [0]

    def count(module: Any, given: Any, named: dict[str, Any]) -> None:
        gone[0] += len(named["input_ids"] if "input_ids" in named else given[0])

    bench.parts["model"].module.get_input_embeddings().register_forward_pre_hook(count, with_kwargs=True)
    batch = bench.work.collate([prepared.splits["train"].row(row) for row in range(8)])
    bench.rule.gradient(bench.losses, bench.parts, [batch], autocast("fp32", "cpu"), bench.care.world)
    assert passes_of(resolved).each == passes == gone[0] / 8


def test_passes_are_counted_on_other_machines_and_tried_on_this_one(recipe: Make, no_trial: None) -> None:
    plain, moved = (flow.plan(recipe("run", changes), hardware=["t4-16g"]) for changes in ({}, {"loss": {"smart": {}}}))
    assert "passes" not in plain and moved["passes"] == 3 and moved["flops"] == pytest.approx(3 * plain["flops"])
    there, before = moved["machines"][1], plain["machines"][1]
    assert there["seconds"]["high"] > 2 * before["seconds"]["high"]
    assert there["memory"]["activations"] == 2 * before["memory"]["activations"], "the usual pass is kept while texts are moved"
    assert moved["machines"][0]["seconds"] == plain["machines"][0]["seconds"], "the trial does what the run does"


def test_a_trial_does_the_passes_of_the_loss(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve(recipe("run", {"loss": {"smart": {"steps": 2}}}))
    bench, calls = lay_out(resolved, flow.prepare(resolved)), []
    scores = type(bench.work).scores
    monkeypatch.setattr(type(bench.work), "scores", lambda *given: calls.append(1) or scores(*given))
    trial._Stepper(bench).step(np.arange(8))
    assert len(calls) == 1 + 2 + 1


def test_old_rows_are_counted(recipe: Make, no_trial: None) -> None:
    old = flow.train(recipe("old", {"training.max_steps": 2, "evaluate.baseline": False})).path
    keep = {"keep.run": str(old), "keep.report": False}
    plain, kept = (flow.plan(recipe("run", changes), hardware=["t4-16g"]) for changes in (keep, {**keep, "keep.replay": 0.5}))
    assert kept["old_rows"] == 1 and "old_rows" not in plain
    assert kept["padded_tokens"] == pytest.approx(2 * plain["padded_tokens"], abs=1)
    assert kept["flops"] == pytest.approx(2 * plain["flops"], rel=1e-3)
    for more, less in zip(kept["machines"], plain["machines"], strict=True):
        assert more["seconds"]["high"] >= less["seconds"]["high"], "kernels of so small a model wait for their start, not for rows"
        assert more["memory"]["activations"] > 1.8 * less["memory"]["activations"]
    assert kept["machines"][0]["seconds"]["steps"] > 1.3 * plain["machines"][0]["seconds"]["steps"]
    added = kept["machines"][0]["memory"]["total"] - plain["machines"][0]["memory"]["total"]
    assert added == pytest.approx(kept["machines"][0]["memory"]["activations"] - plain["machines"][0]["memory"]["activations"], abs=4)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_base_in_few_bits_is_counted_in_these(kind: str, recipe: Make, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny.make_tiny_model(tmp_path / "wide", width=128)
    changes = {"adapter": {"type": "lora", "r": 4}, "model.extend_vocabulary": False, "training.speed.row_embedding": False}
    whole, few = (resolve(recipe("run", {**changes, **more}, model=model)) for more in ({}, {"model.quantize": kind}))
    prepared = flow.prepare(whole)
    module = lay_out(few, prepared).parts["model"].module
    scales = [layer.weight.quant_state.absmax.nbytes if kind == "nf4" else 4 * len(layer.weight) for layer in layers_in(module).values()]
    real = sum(p.nbytes for p in module.parameters()) + sum(scales)
    shape = shape_of(few, prepared)
    assert shape.weight_bytes == pytest.approx(real, rel=1e-3)
    assert shape.spared_bytes == shape_of(whole, prepared).weight_bytes - shape.weight_bytes > 0


def test_what_few_bits_spare_is_taken_off_what_the_trial_took(recipe: Make, no_trial: None, tmp_path: Path) -> None:
    model = tiny.make_tiny_model(tmp_path / "wide", width=128)
    changes = {"adapter": {"type": "lora", "r": 4}, "model.extend_vocabulary": False}
    whole, few = (flow.plan(recipe("run", {**changes, **more}, model=model))["machines"][0] for more in ({}, {"model.quantize": "int8"}))
    spared = whole["memory"]["weights"] - few["memory"]["weights"]
    assert spared > 0 and whole["memory"]["total"] - few["memory"]["total"] == pytest.approx(spared, abs=4)
