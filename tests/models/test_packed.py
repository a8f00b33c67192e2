"""Packed documents go through a model as they would alone: no logit differs, no document reaches another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.losses.vocabulary.chunked import supervised
from luthier.models.packed import attend_packed, choose_layout, leak, packed_inputs, packed_labels

DATA = Path(os.environ["LUTHIER_DATA"]) if os.environ.get("LUTHIER_DATA") else None
NAMES = ("gpt2", "llama", "qwen2")
WAYS = ("flat", "square", "square, eager")
WORDS, LONGEST, PACKINGS = 101, 24, 200


def made(name: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    if name == "gpt2":
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ends)).eval()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[name]
    return model(config(vocab_size=WORDS, max_position_embeddings=64, initializer_range=0.2, **sizes)).eval()


def packings(seed: int, count: int = PACKINGS) -> Iterator[list[list[np.ndarray]]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield [[rng.integers(3, WORDS, rng.integers(1, LONGEST + 1)) for _ in range(rng.integers(1, 4))] for _ in range(rng.integers(1, 3))]


def use(model: Any, way: str) -> dict[str, Any]:
    """Set how the model attends, and return what `packed_inputs` is to be told."""
    if way == "flat":
        attend_packed(model)
    else:
        model.set_attn_implementation("eager" if "eager" in way else "sdpa")
    return {"layout": way.partition(",")[0], "additive": "eager" in way}


def alone(model: Any, documents: list[np.ndarray]) -> list[torch.Tensor]:
    """Logits of each document by itself, without mask or positions."""
    return [model(input_ids=torch.from_numpy(document)[None], use_cache=False).logits[0] for document in documents]


@torch.no_grad()
def largest_difference(model: Any, way: str, seed: int, count: int = PACKINGS) -> float:
    """Over packings, between packed logits and those of each document by itself, with the same kind of attention."""
    told, worst = use(model, way), 0.0
    for documents in packings(seed, count):
        packed = packed_inputs(documents, **told)
        logits_BTV = model(**packed.inputs).logits
        for number, wanted_TV in enumerate(alone(model, [document for pack in documents for document in pack])):
            worst = max(worst, float((logits_BTV[packed.document_BT == number] - wanted_TV).abs().max()))
    return worst


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_packed_logits_are_those_of_each_document_alone(name: str, way: str) -> None:
    assert largest_difference(made(name), way, seed=1, count=PACKINGS if way == "flat" else 40) <= 1e-5


@pytest.mark.real
@pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA names no folder")
def test_packed_logits_of_a_trained_model_are_those_of_each_document_alone() -> None:
    """Its logits reach 20, where float32 itself is off by nearly 1e-5 from float64; so float32 is measured against the largest logit."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(DATA / "checkpoints" / "stories260K").eval()
    largest = max(float(model(**use_ids(documents)).logits.detach().abs().max()) for documents in packings(2, 5))
    assert 5 < largest < 40
    assert largest_difference(model, "flat", seed=2) <= 2e-6 * largest
    assert largest_difference(model.double(), "flat", seed=2, count=40) <= 1e-5


def use_ids(documents: list[list[np.ndarray]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.from_numpy(documents[0][0])[None]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_changing_one_document_changes_no_logit_of_another(name: str, way: str) -> None:
    model = made(name)
    told = use(model, way)
    for documents in packings(3, 5):
        packed = packed_inputs(documents, **told)
        before = model(**packed.inputs).logits
        for number in range(int(packed.document_BT.max()) + 1):
            inside = packed.document_BT == number
            inputs = {
                **packed.inputs,
                "input_ids": torch.where(inside, (packed.inputs["input_ids"] + 7) % WORDS, packed.inputs["input_ids"]),
            }
            after = model(**inputs).logits
            others = ~inside & (packed.document_BT >= 0)
            assert torch.equal(after[others], before[others]) and not torch.equal(after[inside], before[inside])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_those_of_the_documents_alone(name: str, precision: str) -> None:
    model = made(name)
    documents = next(packings(4, 1))
    every = [document for pack in documents for document in pack]
    grads = {}
    for way in ("alone", "flat"):
        model.zero_grad()
        use(model, "square" if way == "alone" else way)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            if way == "flat":
                logits = model(**packed_inputs(documents).inputs).logits
                labels_BT = packed_labels(documents)
                loss = torch.nn.functional.cross_entropy(*supervised(logits, labels_BT), reduction="sum")
            else:
                pairs = [(torch.from_numpy(document)[1:], own[:-1]) for document, own in zip(every, alone(model, every), strict=True)]
                loss = sum(torch.nn.functional.cross_entropy(own, words, reduction="sum") for words, own in pairs if len(words))
        loss.backward()
        grads[way] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    relative = (grads["flat"] - grads["alone"]).norm() / grads["alone"].norm()
    assert float(relative) < (1e-5 if precision == "fp32" else 0.02)


def test_no_document_is_asked_for_its_first_token() -> None:
    documents = [[np.array([1, 2, 3]), np.array([4])], [np.array([5, 6])]]
    assert packed_labels(documents).tolist() == [[-100, 2, 3, -100, -100, 6]]
    assert packed_labels(documents, layout="square").tolist() == [[-100, 2, 3, -100], [-100, 6, -100, -100]]
    assert supervised(torch.arange(6.0).view(1, 6, 1), packed_labels(documents))[1].tolist() == [2, 3, 6]


def test_what_the_model_is_called_with() -> None:
    packed = packed_inputs([[np.array([7, 8, 9]), np.array([4])], [np.array([5, 6])]])
    assert packed.inputs["input_ids"].tolist() == [[7, 8, 9, 4, 5, 6]]
    assert packed.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert packed.inputs["attention_mask"].flatten().tolist() == [3, 1, 2]
    assert packed.document_BT.tolist() == [[0, 0, 0, 1, 2, 2]]


@torch.no_grad()
def test_inputs_that_are_not_packed_still_work() -> None:
    model = made("llama")
    ids = torch.randint(3, WORDS, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    wanted = model(input_ids=ids, attention_mask=mask).logits, model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    attend_packed(model)
    found = model(input_ids=ids, attention_mask=mask).logits, model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert torch.equal(wanted[0], found[0]) and torch.equal(wanted[1], found[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_layout_is_chosen_by_trying_it(name: str) -> None:
    model = made(name).train()
    assert choose_layout(model) == "flat" and model.training and leak(model, "flat") <= 1e-5


def test_a_model_that_would_mix_documents_is_not_packed() -> None:
    model = made("gpt2")
    forward = model.transformer.h[0].mlp.forward

    def mixing(states_BTH: torch.Tensor) -> torch.Tensor:
        return forward(states_BTH) + states_BTH.cumsum(1)

    model.transformer.h[0].mlp.forward = mixing
    assert choose_layout(model) is None and model.config._attn_implementation == "sdpa"
    attend_packed(model)
    assert leak(model, "flat") > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    model = made("llama").cuda()
    attend_packed(model)
    assert leak(model, "flat") <= 1e-4
