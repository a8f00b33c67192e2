"""Variants of LoRA, and what other adapters ask of the optimiser and the base."""

from __future__ import annotations

import copy
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
from luthier.adapters.injection.staying import staying
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.models.outline import outlined
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import lay_out
from luthier.stages.planning.shape import without_content
from luthier.stages.results.measure import outputs_of

Recipe = Callable[..., dict[str, Any]]
LORA = {"type": "lora", "r": 4, "alpha": 8}
SHORT = {"training.max_steps": 8, "training.save_every": "3steps"}


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Make a recipe on a tiny decoder with an adapter."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_decoder(folder / "llama")
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(120))

    def make(output: Path, adapter: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
        own = {} if adapter is None else {"adapter": adapter}
        return writing_recipe(Path(changes.pop("model", model)), rows, output, own | changes)

    return make


def groups_of(recipe: dict[str, Any]) -> dict[str, tuple[float, float, int]]:
    groups = bench_of(recipe).saved.optimiser.param_groups
    return {group["name"]: (group["lr"], group["weight_decay"], len(group["params"])) for group in groups}


def test_the_second_factors_of_lora_plus_learn_faster(writing: Recipe, tmp_path: Path) -> None:
    plain = groups_of(writing(tmp_path / "run", LORA))
    faster = groups_of(writing(tmp_path / "run", {**LORA, "plus_ratio": 16.0}))
    rate, decay, number = plain["body"]
    assert faster == {"body": (rate, decay, number // 2), "body, 16 times": (16 * rate, decay, number // 2)}


def test_the_vectors_of_ia3_are_not_decayed(writing: Recipe, tmp_path: Path) -> None:
    assert {decay for _, decay, _ in groups_of(writing(tmp_path / "run", {"type": "ia3"})).values()} == {0.0}


def test_names_for_ia3_are_looked_up(writing: Recipe, tmp_path: Path) -> None:
    named = {"type": "ia3", "target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    module = bench_of(writing(tmp_path / "run", named)).parts["model"].module
    shapes = {name.split(".")[-3]: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    assert shapes == {"v_proj": (16, 1), "down_proj": (1, 64)}
    with pytest.raises(ConfigError, match="adapter.feedforward_modules: nothing in the model is called 'down'"):
        bench_of(writing(tmp_path / "run", {**named, "feedforward_modules": ["down"]}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"start": "pissa", "dora": True}, "adapter.start=default, or adapter.dora=false"),
        ({"start": "pissa", "r": 17}, r"start pissa finds 16 directions in the smallest matrix, and r is 17 \(adapter.r=16"),
    ],
)
def test_a_start_that_the_settings_do_not_fit_is_refused(settings: dict[str, Any], said: str, writing: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        bench_of(writing(tmp_path / "run", {**LORA, **settings}))


def test_olora_is_refused_where_matrices_lie_on_their_side(writing: Recipe, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_words()
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=96, n_embd=32, n_layer=2, n_head=4)).save_pretrained(
        tmp_path / "gpt2"
    )
    tokenizer.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="adapter.start=pissa"):
        bench_of(writing(tmp_path / "run", {**LORA, "start": "olora"}, model=tmp_path / "gpt2"))
    bench = bench_of(writing(tmp_path / "run", {**LORA, "start": "pissa"}, model=tmp_path / "gpt2"))
    assert any("lora_" in name for name, p in bench.parts["model"].module.named_parameters() if p.requires_grad)


def test_a_run_from_pissa_is_measured_resumed_and_served_as_it_was_trained(writing: Recipe, tmp_path: Path) -> None:
    pissa = {**LORA, "start": "pissa"}
    run = flow.train(writing(tmp_path / "run", pissa, **SHORT)).path
    stopped = train_until(writing(tmp_path / "stopped", pissa, **SHORT), 4)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(run)
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-5)
    base = bench_of(writing(tmp_path / "base", None))
    found = outputs_of(base.work, base.parts, base.prepared.splits["test"], max_tokens=500, device="cpu")
    untuned = files.read_json(run / "evaluation.json")["test"]["comparison"]["base"]
    assert untuned == pytest.approx(float(found.nats_B.sum() / found.tokens_B.sum()), abs=1e-5)
    assert files.read_json(run / "model" / "luthier.json")["adapter"]["r"] == 8


def test_the_base_that_pissa_took_from_stays_in_float32(writing: Recipe, tmp_path: Path) -> None:
    kinds = {
        start: {
            p.dtype
            for p in bench_of(writing(tmp_path / "run", {**LORA, "start": start}, **{"training.precision": "bf16"}))
            .parts["model"]
            .module.parameters()
        }
        for start in ("default", "pissa")
    }
    assert kinds == {"default": {torch.float32, torch.bfloat16}, "pissa": {torch.float32}}


def test_the_numbers_of_parameters_are_in_the_metrics(writing: Recipe, tmp_path: Path) -> None:
    run = flow.train(writing(tmp_path / "run", {"type": "layernorm"}, **SHORT)).path
    found = files.read_json(run / "metrics.json")["parameters"]
    assert found["adapter"] == 5 * 32 and found["head"] == 0 and found["base"] > 10000


def test_a_head_of_several_layers_is_one_head_for_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaConfig, RobertaModel

    tokens = len(tiny.tiny_vocabulary())
    tiny.make_tiny_model(tmp_path / "roberta")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 80}
    RobertaModel(RobertaConfig(vocab_size=tokens, pad_token_id=0, **sizes)).save_pretrained(tmp_path / "roberta")
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(60))
    made = tiny.tiny_recipe(tmp_path / "roberta", rows, tmp_path / "run", {"adapter": LORA, **SHORT, "model.extend_vocabulary": False})
    run = flow.train(made).path
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "roberta", num_labels=3)
    model, tokenizer = PeftModel.from_pretrained(base, run / "model").eval(), AutoTokenizer.from_pretrained(run / "model")
    lines = files.read_json_lines(run / "reference.jsonl")
    told = tokenizer([line["text"] for line in lines], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        plain = model(**told).logits.numpy()
    assert np.abs(plain - np.array([line["logits"] for line in lines])).max() <= 1e-5


def test_virtual_tokens_are_trained_measured_and_served(writing: Recipe, tmp_path: Path) -> None:
    virtual = {"type": "prompt-tuning", "num_virtual_tokens": 6}
    with pytest.raises(ConfigError, match=r"prompt-tuning puts virtual tokens before every row.*data.packing=false"):
        bench_of(writing(tmp_path / "packed", virtual))
    run = flow.train(writing(tmp_path / "run", virtual, **SHORT, **{"data.packing": False})).path
    stored = files.read_json(run / "metrics.json")
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored["scores"]["test"]["loss"]["value"], abs=1e-6)
    assert stored["parameters"]["adapter"] == 6 * 32
    lines = files.read_json_lines(run / "reference.jsonl")
    prompts, inputs = zip(*(line["text"].split("\n") for line in lines), strict=True)
    answers = [answer.label for answer in Predictor.open(run).answer(list(prompts), list(inputs))]
    assert answers == [line["label"] for line in lines], "prompts of many lengths are answered as each by itself"


def test_rows_and_virtual_tokens_beyond_the_places_are_refused(tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(60))
    changes = {"adapter": {"type": "prompt-tuning", "num_virtual_tokens": 60}, "model.extend_vocabulary": False}
    with pytest.raises(ConfigError, match=r"60 virtual tokens and a row of \d+ are more than the 64 places.*data.max_length=4"):
        bench_of(tiny.tiny_recipe(tiny.make_tiny_model(tmp_path / "bert"), rows, tmp_path / "run", changes))


def test_frozen_layers_and_an_adapter_are_refused_together(tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(60))
    changes = {"adapter": LORA, "model.freeze": 1, "model.extend_vocabulary": False}
    with pytest.raises(ConfigError, match="an adapter freezes everything but itself.*leave model.freeze out"):
        bench_of(tiny.tiny_recipe(tiny.make_tiny_model(tmp_path / "bert"), rows, tmp_path / "run", changes))


def test_tokens_out_of_a_network_are_saved_as_they_were_measured_in_bfloat16(writing: Recipe, tmp_path: Path) -> None:
    made = {"type": "p-tuning", "num_virtual_tokens": 4}
    run = flow.train(writing(tmp_path / "run", made, **SHORT, **{"data.packing": False, "training.precision": "bf16"})).path
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-5)


VECTORS = [{"type": "ia3"}, {"type": "vera", "r": 8}, {"type": "prompt-tuning"}]
PLANNED = [LORA, {**LORA, "start": "pissa"}, *VECTORS, {"type": "bottleneck"}, {"type": "reft"}]
PLANNED += [{"type": "adalora", "r": 2, "start_r": 4}, {"type": "prefix-tuning"}]


@pytest.mark.parametrize("settings", PLANNED)
def test_a_run_with_an_adapter_is_planned_without_its_weights(settings: dict[str, Any], writing: Recipe, tmp_path: Path) -> None:
    made = resolve(writing(tmp_path / "run", settings, **{"data.packing": False}))
    prepared = flow.prepare(made)
    with without_content(), outlined():
        planned = lay_out(made, prepared)
    trained = sum(p.numel() for p in planned.parts["model"].module.parameters() if p.requires_grad)
    assert trained == sizes_of(lay_out(made, prepared).parts["model"].module)["adapter"]


def test_a_head_without_content_is_copied_into_the_same_plan() -> None:
    from torch import nn

    with without_content() as mode:
        head = nn.Linear(4, 3)
        with staying(head):
            copied: Any = copy.deepcopy(head)
    assert copied.weight.fake_mode is mode, "a copy of the mode gives memory back that is not its own"
    assert isinstance(copied.weight, nn.Parameter) and copied.weight.requires_grad and copied.weight is not head.weight
