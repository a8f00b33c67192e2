"""The lean blocks give what transformers' own give: values, gradients, with padding, frozen, and where the head reads one position."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)
from transformers.utils import logging

from luthier.models.lean.bert import make_lean
from luthier.models.lean.dropout import FastDropout, swap_dropouts
from luthier.models.lean.random_bits import dropout_mask
from luthier.models.lean.shadow import Shadow

logging.set_verbosity_error()
SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "num_labels": 3,
    "max_position_embeddings": 40, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {"bert": BertConfig, "roberta": RobertaConfig, "electra": ElectraConfig}


def model_of(kind: str, dropout: float = 0.0, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    extra = {"embedding_size": 32} if kind == "electra" else {}
    config = CONFIGS[kind](**SIZES, **extra, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).train()


def inputs(padded: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (5, 9), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 5:] = 0
        mask[3, 2:] = 0
        ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


def answers_of(model: Any) -> Any:
    def answers() -> np.ndarray:
        mode = model.training
        with torch.inference_mode():
            found = model.eval()(**inputs(padded=True)).logits.numpy()
        model.train(mode)
        return found

    return answers


def backward(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(**batch).logits
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    return logits.detach()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_values_and_gradients_are_the_same(kind: str, first_only: bool, padded: bool, attention: str) -> None:
    plain = model_of(kind, attention=attention)
    lean = copy.deepcopy(plain)
    assert make_lean(lean, answers_of(lean) if first_only else None)
    blocks = next(m for m in lean.modules() if isinstance(m, torch.nn.ModuleList))
    assert blocks[-1].forward.first_only == first_only
    logits = [backward(model, inputs(padded)) for model in (plain, lean)]
    assert torch.allclose(*logits, atol=1e-6)
    for (name, one), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-6), name


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("targets", [["query", "value"], ["key", "attention.output.dense", "output.dense"], "all-linear"])
def test_lora_in_a_lean_block_is_lora(targets: Any, first_only: bool) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    named = ["query", "key", "value", "dense"] if targets == "all-linear" else targets
    config = LoraConfig(r=3, lora_alpha=5, target_modules=named, exclude_modules=["pooler.dense", "classifier"], init_lora_weights=False)
    plain = inject_adapter_in_model(config, model_of("bert"))
    lean = copy.deepcopy(plain)
    assert make_lean(lean, answers_of(lean) if first_only else None)
    logits = [backward(model, inputs(padded=True)) for model in (plain, lean)]
    assert torch.allclose(*logits, atol=1e-5)
    learnt = 0
    for (name, one), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=2e-6), name
        learnt += ".lora_" in name and one.grad is not None and float(one.grad.abs().max()) > 1e-4
    assert learnt == 3 * 2 * {2: 2, 3: 3, 4: 6}[len(named)]


def test_lora_switched_off_or_merged_adds_nothing() -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    base = model_of("bert").eval()
    tuned = inject_adapter_in_model(LoraConfig(r=3, target_modules=["query", "dense"], init_lora_weights=False), copy.deepcopy(base))
    assert make_lean(tuned)
    layers = [module for module in tuned.modules() if isinstance(module, LoraLayer)]
    with_it = tuned(**inputs(padded=True)).logits
    for layer in layers:
        layer.enable_adapters(False)
    assert torch.allclose(tuned(**inputs(padded=True)).logits, base(**inputs(padded=True)).logits, atol=1e-5)
    for layer in layers:
        layer.enable_adapters(True)
        layer.merge()
    assert torch.allclose(tuned(**inputs(padded=True)).logits, with_it, atol=1e-4)
    assert (with_it - base(**inputs(padded=True)).logits).abs().max() > 1e-2


def test_a_frozen_block_has_no_gradients_and_passes_them_on() -> None:
    plain = model_of("bert")
    plain.bert.encoder.layer[1].requires_grad_(False)
    lean = copy.deepcopy(plain)
    make_lean(lean, answers_of(lean))
    for model in (plain, lean):
        backward(model, inputs(padded=True))
    assert all(p.grad is None for p in lean.bert.encoder.layer[1].parameters())
    one, other = (model.bert.encoder.layer[0].output.dense.weight.grad for model in (plain, lean))
    assert torch.allclose(one, other, atol=1e-6) and one.abs().max() > 1e-4


def test_bfloat16_stays_close_to_autocast() -> None:
    plain = model_of("bert")
    lean = copy.deepcopy(plain)
    make_lean(lean, answers_of(lean))
    exact = backward(copy.deepcopy(plain), inputs(padded=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs, ours = (model(**inputs(padded=True)).logits.float().detach() for model in (plain, lean))
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max() + 1e-2
    assert (ours - exact).abs().max() > 0, "bf16 computed in float32"


def test_a_head_that_reads_every_position_gets_every_position() -> None:
    from luthier.models.pooled import PooledClassifier

    for pooling, reads_one in (("mean", False), ("max", False), ("attention", False), ("cls", True)):
        model = PooledClassifier(model_of("bert").bert, pooling=pooling, hidden=[], num_labels=3, dropout=0.0)
        with torch.no_grad():
            model.head[-1].weight.zero_()
        before = answers_of(model)()
        assert make_lean(model, answers_of(model))
        assert model.encoder.encoder.layer[-1].forward.first_only is reads_one
        assert np.abs(answers_of(model)() - before).max() <= 1e-6


def test_other_networks_are_left_alone() -> None:
    distil = AutoModelForSequenceClassification.from_config(DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=48))
    relu = AutoModelForSequenceClassification.from_config(BertConfig(**SIZES, hidden_act="relu"))
    uneven = model_of("bert")
    uneven.bert.encoder.layer[0].output.dropout.p = 0.3
    for model in (distil, relu, uneven):
        assert not make_lean(model)


def test_dropout_drops_as_often_as_it_says_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for p in (0.1, 0.5):
            mask = dropout_mask((400, 1001), p, dtype)
            assert mask.dtype == dtype and sorted(mask.unique().tolist())[0] == 0 and len(mask.unique()) == 2
            assert float((mask == 0).float().mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / 400_400) ** 0.5 + 2**-15)
            assert float(mask.float().mean()) == pytest.approx(1, abs=0.006)


def test_dropout_masks_are_the_generators_alone() -> None:
    state = torch.get_rng_state()
    first, second = dropout_mask((64, 64), 0.1, torch.bfloat16), dropout_mask((64, 64), 0.1, torch.bfloat16)
    torch.set_rng_state(state)
    assert torch.equal(first, dropout_mask((64, 64), 0.1, torch.bfloat16)) and not torch.equal(first, second)


def test_lean_dropout_is_a_fair_sample_of_the_plain_one() -> None:
    """The mean over many passes comes near the pass without dropout, as it does for transformers' own."""
    plain, lean = model_of("bert", dropout=0.1), model_of("bert", dropout=0.1)
    make_lean(lean, answers_of(lean))
    assert swap_dropouts(lean) > 0 and not any(type(m) is torch.nn.Dropout for m in lean.modules())
    with torch.no_grad():
        means, spreads = [], []
        for model in (plain, lean):
            found = torch.stack([model(**inputs(padded=False)).logits for _ in range(400)])
            means.append(found.mean(0))
            spreads.append(found.std(0))
    assert (spreads[0] > 1e-3).all() and (spreads[0] / spreads[1] - 1).abs().max() < 0.35
    assert ((means[0] - means[1]).abs() < 6 * spreads[0] / 20).all()


def test_dropout_off_is_the_identity() -> None:
    states = torch.randn(3, 4)
    assert FastDropout(0.5).eval()(states) is states or torch.equal(FastDropout(0.5).eval()(states), states)
    assert torch.equal(FastDropout(0.0).train()(states), states)
    kept = FastDropout(0.5).train()(states)
    assert ((kept == 0) | torch.isclose(kept, 2 * states)).all()


def test_a_shadow_is_renewed_when_its_parameter_changed() -> None:
    weights = [torch.nn.Parameter(torch.randn(3, 2)) for _ in range(2)]
    shadow = Shadow(weights)
    first = shadow(torch.bfloat16)
    assert first is shadow(torch.bfloat16) and torch.equal(first, torch.cat([w.detach() for w in weights]).bfloat16())
    with torch.no_grad():
        weights[1].add_(1.0)
    assert torch.equal(shadow(torch.bfloat16), torch.cat([w.detach() for w in weights]).bfloat16())
    with torch.inference_mode():
        shadow(torch.float32)
    with torch.no_grad():
        weights[0].add_(1.0)
    assert torch.equal(shadow(torch.float32), torch.cat([w.detach() for w in weights]))
