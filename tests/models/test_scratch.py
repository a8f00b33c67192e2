"""A decoder from nothing: any causal architecture by name, sized by its tokenizer; what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_decoder import make_tiny_decoder, tiny_words, write_text, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, SetupError, UserError
from luthier.models.scratch import open_words, scratch_config
from luthier.models.section import ModelSection
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out

GPT2 = {"architecture": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64}
LLAMA = {"architecture": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**LLAMA, "num_key_value_heads": 1}
MakeBench = Callable[..., Bench]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(scratch: dict[str, Any], changes: dict[str, Any] | None = None) -> dict[str, Any]:
        tokenizer = make_tiny_decoder(tmp_path / "words")
        recipe = writing_recipe(tokenizer, write_text(tmp_path / "rows.txt"), tmp_path / "run", {"data.max_length": 32, **(changes or {})})
        return recipe | {"model": {"scratch": scratch, "tokenizer": str(tokenizer)}}

    return make


def laid(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


@pytest.mark.parametrize("scratch", [GPT2, LLAMA, {**GROUPED, "architecture": "qwen2"}, {**GROUPED, "architecture": "mistral"}])
def test_an_architecture_is_built_by_its_name(scratch: dict[str, Any], made: Callable[..., dict[str, Any]]) -> None:
    model = laid(made(scratch)).parts["model"].module.model
    assert model.config.model_type == scratch["architecture"]
    assert model.config.vocab_size == len(tiny_words()) and model.config.eos_token_id == 2
    assert len(model.base_model.h if scratch is GPT2 else model.base_model.layers) == 2


def test_the_seed_decides_the_weights(made: Callable[..., dict[str, Any]]) -> None:
    one, same, other = (
        laid(made(GPT2, {"training.seed": seed})).parts["model"].module.model.transformer.wte.weight.clone() for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_model_from_nothing_learns_and_its_folder_is_plain(made: Callable[..., dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM

    run = flow.train(made(GPT2, {"training.max_steps": 30}))
    facts = files.read_json(run.evaluation)["test"]["comparison"]
    assert facts["verdict"] == "better" and facts["tuned"] < 0.9 * facts["base"]
    assert AutoModelForCausalLM.from_pretrained(run.model).config.n_layer == 2
    assert "from nothing" in run.report.read_text(encoding="utf-8") and "base_model" not in run.card.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("scratch", "said"),
    [
        ({**GPT2, "architecture": "gtp2"}, "no causal architecture 'gtp2'.*gpt2"),
        ({**GPT2, "n_layers": 3}, r"model.scratch.n_layers: gpt2 has no such field.*n_layer"),
        ({**GPT2, "vocab_size": 10}, "the tokenizer has"),
        ({"n_layer": 3}, "scratch has no architecture"),
        ({**GPT2, "n_layer": "many"}, "gpt2 cannot be built"),
        ({**LLAMA, "architecture": "qwen2"}, "cannot be computed with these sizes"),  # 32 key-value heads where none are named
    ],
)
def test_what_is_wrong_is_named(scratch: dict[str, Any], said: str, made: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=said):
        laid(made(scratch))


def test_a_classifier_is_not_built_from_nothing(made: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="it has no classes"):
        laid(made(GPT2, {"task": "text-classification"}))


def test_an_encoder_cannot_write(tiny_model: Path, tmp_path: Path) -> None:
    recipe = writing_recipe(tiny_model, write_text(tmp_path / "rows.txt"), tmp_path / "run")
    with pytest.raises(UserError, match=r"\(bert\) reads texts and cannot write them"):
        laid(recipe)


def test_more_tokens_than_the_model_knows_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_decoder(tmp_path / "model")
    words = tiny_words()
    words.add_tokens(["another", "more"])
    words.save_pretrained(folder)
    with pytest.raises(SetupError, match="the model"):
        laid(writing_recipe(folder, write_text(tmp_path / "rows.txt"), tmp_path / "run"))


def test_a_folder_of_byte_pairs_is_a_tokenizer(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyzĠ"
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "th", "the"])}
    files.write_json(tmp_path / "vocab.json", vocabulary)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    words = open_words(ModelSection(scratch=GPT2, tokenizer=str(tmp_path)))
    assert words.tokenize("the cat") == ["the", "Ġ", "c", "a", "t"] and words.decode(words("the cat").input_ids) == "the cat"
    assert (words.eos_token, words.pad_token, words.bos_token) == ("</s>", "<pad>", "<s>")
    assert scratch_config(GPT2, words).vocab_size == len(vocabulary)
    vocabulary.pop("</s>")
    files.write_json(tmp_path / "vocab.json", vocabulary)
    with pytest.raises(SetupError, match="no end of text"):
        open_words(ModelSection(scratch=GPT2, tokenizer=str(tmp_path)))
