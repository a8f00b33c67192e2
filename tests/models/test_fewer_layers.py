"""A student begins with some layers of a pretrained model, and plain transformers loads what is saved of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_decoder import make_tiny_decoder, tiny_words
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, BertModel

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.models.blocks import blocks_of
from luthier.models.causal import start_decoder
from luthier.models.classifier import save_classifier, start_classifier
from luthier.models.fewer_layers import spread
from luthier.models.section import ModelSection
from luthier.recipe import resolve

MakeRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of six layers with the tokenizer of the tiny one."""
    folder = tiny.make_tiny_model(tmp_path_factory.mktemp("models") / "deep")
    config = BertConfig.from_pretrained(folder, num_hidden_layers=6)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("wanted", "number", "places"),
    [(3, 6, (0, 2, 4)), (6, 12, (0, 2, 4, 6, 8, 10)), (4, 6, (0, 1, 3, 4)), (1, 6, (0,)), (6, 6, (0, 1, 2, 3, 4, 5))],
)
def test_layers_are_taken_at_even_distances(wanted: int, number: int, places: tuple[int, ...]) -> None:
    assert spread(wanted, number) == places


@pytest.mark.parametrize(
    ("section", "kept"), [({"layers": 3}, (0, 2, 4)), ({"keep_layers": [0, 2, 5]}, (0, 2, 5)), ({"layers": 6}, range(6))]
)
@pytest.mark.parametrize("head", [{}, {"pooling": "mean"}])
def test_a_student_has_the_layers_it_keeps(
    section: dict[str, Any], kept: Any, head: dict[str, Any], deep_model: Path, tmp_path: Path
) -> None:
    whole = AutoModel.from_pretrained(deep_model)
    loaded = start_classifier(ModelSection(path=str(deep_model), head=head, **section), ("a", "b"), multi_label=False)
    assert loaded.new and loaded.new <= {name for name, _ in loaded.model.named_parameters()}
    save_classifier(loaded.model, tmp_path)
    again = AutoModel.from_pretrained(tmp_path) if head else AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.num_hidden_layers == len(kept)
    blocks = blocks_of(again)
    assert len(blocks) == len(kept)
    for block, place in zip(blocks, kept, strict=True):
        pairs = zip(block.parameters(), blocks_of(whole)[place].parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_a_decoder_keeps_its_layers_and_can_write(tmp_path: Path) -> None:
    folder, saved = make_tiny_decoder(tmp_path / "decoder"), tmp_path / "saved"
    model = start_decoder(ModelSection(path=str(folder), keep_layers=(1,)), tiny_words()).model
    model.save_pretrained(saved)
    again = AutoModelForCausalLM.from_pretrained(saved)
    assert len(blocks_of(again)) == again.config.num_hidden_layers == 1
    ids = torch.tensor([[1, 5, 6, 7]])
    assert again.generate(ids, max_new_tokens=3, do_sample=False).shape[1] <= 7
    assert torch.allclose(again(ids, use_cache=False).logits, model.eval()(ids, use_cache=True).logits, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.layers": 7}, "at most model.layers=2"),
        ({"model.keep_layers": [0, 2]}, "numbers from 0 to 1"),
        ({"model.keep_layers": [1, 0]}, "in their order"),
        ({"model.layers": 1, "model.keep_layers": [0]}, "name one of the two"),
        ({"model.layers": 1, "adapter": "lora"}, "leave model.layers out"),
    ],
)
def test_layers_that_are_not_there_are_refused(changes: dict[str, Any], said: str, recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=said):
        flow.train(resolve(recipe("run", changes)))
