"""Blocks are found in any architecture; freezing touches what it says, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from luthier.core.errors import ConfigError
from luthier.models.blocks import blocks_of
from luthier.models.freezing import freeze, lower_part
from luthier.models.pooled import PooledClassifier
from luthier.models.vocabulary import grow_embeddings

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS: dict[str, Any] = {
    "bert": transformers.BertConfig(**SMALL),
    "roberta": transformers.RobertaConfig(**SMALL),
    "electra": transformers.ElectraConfig(**SMALL, embedding_size=8),
    "distilbert": transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32),
    "gpt2": transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, pad_token_id=0),
    "llama": transformers.LlamaConfig(**SMALL, pad_token_id=0),
    "qwen2": transformers.Qwen2Config(**SMALL, num_key_value_heads=1, pad_token_id=0),
    "deberta-v2": transformers.DebertaV2Config(**SMALL),
    "modernbert": transformers.ModernBertConfig(**SMALL, pad_token_id=0, cls_token_id=1, sep_token_id=2),
}
every_model = pytest.mark.parametrize("kind", CONFIGS)


def classifier(kind: str) -> Any:
    return transformers.AutoModelForSequenceClassification.from_config(CONFIGS[kind])


def new_in(model: Any) -> frozenset[str]:
    """What would be new if the body came from files."""
    inside = {id(p) for p in model.base_model.parameters()}
    return frozenset(name for name, p in model.named_parameters() if id(p) not in inside)


@every_model
def test_the_blocks_are_found_and_each_feeds_the_next(kind: str) -> None:
    model = classifier(kind).eval()
    blocks = blocks_of(model)
    assert len(blocks) == 3
    fed, gave = [], []
    for block in blocks:
        block.register_forward_hook(
            lambda block, args, kwargs, output: (
                (
                    fed.append(args[0] if args else kwargs["hidden_states"]),
                    gave.append(output[0] if isinstance(output, tuple) else output),
                )
                and None
            ),
            with_kwargs=True,
        )
    model(input_ids=torch.tensor([[5, 6, 7, 8]]))
    assert all(torch.equal(gave[number], fed[number + 1]) for number in range(2))


def test_an_image_model_has_blocks_too() -> None:
    config = transformers.ViTConfig(**{**SMALL, "image_size": 8, "patch_size": 4})
    assert len(blocks_of(transformers.ViTForImageClassification(config))) == 3


def test_a_head_of_our_own_changes_nothing() -> None:
    encoder = transformers.BertModel(CONFIGS["bert"])
    model = PooledClassifier(encoder, pooling="mean", hidden=[8], num_labels=2, dropout=0.1)
    assert blocks_of(model) is encoder.encoder.layer


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: transformers.AlbertModel(transformers.AlbertConfig(**SMALL, embedding_size=8)), "runs 3 layers but has the weights of 1"),
        (lambda: transformers.BartModel(transformers.BartConfig(vocab_size=50, d_model=16, encoder_layers=2, decoder_layers=2)), "several"),
        (lambda: nn.Linear(2, 2), "no stack of layers"),
    ],
)
def test_where_the_blocks_cannot_be_told_it_says_why(model: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        blocks_of(model())
    assert "model.freeze=body" in str(caught.value)


@every_model
@pytest.mark.parametrize("how", [0, 1, 3, "body"])
def test_what_is_frozen_is_what_was_asked_for(kind: str, how: Any) -> None:
    model = classifier(kind)
    freeze(model, how, new_in(model))
    model.train()
    blocks = blocks_of(model)
    frozen = len(blocks) if how == "body" else how
    for number, block in enumerate(blocks):
        assert {p.requires_grad for p in block.parameters()} == {number >= frozen}
        assert block.training == (number >= frozen)
    assert not any(p.requires_grad for p in model.get_input_embeddings().parameters())
    heads = [p for name, p in model.named_parameters() if name in new_in(model)]
    assert heads and all(p.requires_grad for p in heads)
    dropouts = [module for name, module in model.named_modules() if isinstance(module, nn.Dropout) and "embed" in name]
    assert not any(module.training for module in dropouts)
    part = lower_part(model, how)
    assert (part is None) == (how == 0)
    if part is not None:
        nothing_left = not any(p.requires_grad for p in model.base_model.parameters())
        assert nothing_left or how != "body"
        assert (part.body is model.base_model) if nothing_left else len(part.blocks) == frozen


def test_dropout_of_gpt2_before_the_blocks_is_off_and_of_the_rest_is_on() -> None:
    model = classifier("gpt2")
    freeze(model, 2, new_in(model))
    model.train()
    assert not model.transformer.drop.training and model.transformer.h[2].attn.attn_dropout.training and model.training


def test_a_new_pooler_belongs_to_the_head() -> None:
    model = classifier("bert")
    freeze(model, "body", new_in(model) | {"bert.pooler.dense.weight", "bert.pooler.dense.bias"})
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        *("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias")
    }
    part = lower_part(model, "body")
    assert part is not None and part.body is None and len(part.blocks) == 3


def test_rows_for_new_characters_are_frozen_with_the_embeddings() -> None:
    model = classifier("bert")
    grown = grow_embeddings(model, 53)
    freeze(model, "body", new_in(model) | grown)
    assert grown and {name for name, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}


def test_more_layers_than_there_are_is_refused() -> None:
    model = classifier("bert")
    with pytest.raises(ConfigError, match=r"model\.freeze: got 4, but the model has 3 layers \(at most model\.freeze=3"):
        freeze(model, 4, new_in(model))
