"""Blocks are found in any architecture; freezing touches what it says, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from luthier.core.errors import ConfigError
from luthier.models.blocks import blocks_of
from luthier.models.freezing import freeze, lower_part, train_only
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
    part = lower_part(model)
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
    part = lower_part(model)
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


def trained_in(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_globs_freeze_what_they_fit_and_nothing_else() -> None:
    model = classifier("bert")
    freeze(model, ("embeddings", "layer.0", "layer.*.attention"), new_in(model))
    wanted = {name for name, _ in model.named_parameters() if ".embeddings." not in name and ".layer.0." not in name}
    assert trained_in(model) == {name for name in wanted if ".attention." not in name}
    model.train()
    blocks, part = blocks_of(model), lower_part(model)
    assert [block.training for block in blocks] == [False, True, True] and part is not None and part.blocks == tuple(blocks[:1])
    assert not model.bert.embeddings.dropout.training and blocks[1].attention.self.dropout.training


def test_dropout_stays_on_above_the_lowest_parameter_that_is_trained() -> None:
    model = classifier("bert")
    freeze(model, ("layer.1", "pooler"), new_in(model))
    model.train()
    assert all(module.training for module in model.modules()) and lower_part(model) is None


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "deberta-v2"])
def test_bitfit_trains_the_biases_and_the_head(kind: str) -> None:
    model = classifier(kind)
    train_only(model, "bitfit", new_in(model))
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert trained_in(model) == biases | new_in(model) and len(biases) > 3 * 6
    model.train()
    assert all(module.training for block in blocks_of(model) for module in block.modules())


@every_model
def test_norms_alone_are_trained_beside_the_head(kind: str) -> None:
    model = classifier(kind)
    train_only(model, "norms", new_in(model))
    norms = trained_in(model) - new_in(model)
    assert len(norms) >= 3 * 2 and all(p.ndim == 1 for name, p in model.named_parameters() if name in norms)
    assert all("norm" in name.lower() or "ln_" in name for name in norms)


def test_named_blocks_alone_are_trained_and_what_lies_below_is_still() -> None:
    model = classifier("llama")
    train_only(model, ("layers.2",), new_in(model))
    assert trained_in(model) == {name for name, _ in model.named_parameters() if ".layers.2." in name} | new_in(model)
    part = lower_part(model)
    assert part is not None and len(part.blocks) == 2


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (
            lambda m: freeze(m, ("encoder.layr.0",), new_in(m)),
            r"model\.freeze: no .* fits 'encoder\.layr\.0' .*'encoder\.layer\.0'",
        ),
        (lambda m: freeze(m, ("layer.0", "layer.3"), new_in(m)), r"fits 'layer\.3'"),
        (lambda m: freeze(m, ("xyzzy",), new_in(m)), "they are called bert"),
        (lambda m: freeze(m, ("*",), new_in(m)), "nothing would be left to train"),
        (lambda m: train_only(m, ("clasifier",), new_in(m)), r"model\.train: .*did you mean 'classifier'"),
        (lambda m: train_only(m, ("bert",), new_in(m)), "what is named is the whole model"),
    ],
)
def test_globs_that_fit_nothing_or_everything_are_refused(act: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        act(classifier("bert"))


def test_a_model_without_biases_has_no_bitfit() -> None:
    with pytest.raises(ConfigError, match=r"LlamaModel has no biases \(name another, such as model\.train=norms"):
        train_only(classifier("llama"), "bitfit", frozenset({"score.weight"}))
