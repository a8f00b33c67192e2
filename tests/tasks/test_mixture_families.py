"""Tasks of different kinds on one trunk of other families than BERT and Llama, and with other means of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_decoder
import tiny_seq2seq
from tiny_mixtures import CLASSES, mixture, name_of, translators, writers

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.data.prepared import Row
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.results.written import REFERENCE_TOKENS

QUICK: dict[str, Any] = {"training.max_steps": 6, "evaluate.baseline": False, "mixing": {"sampling": "round-robin"}}
TASKS = (CLASSES, "token-classification", "fill-mask", "sentence-similarity")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
ENCODERS: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "albert": {**SIZES, "embedding_size": 16},
    "deberta-v2": SIZES,
}


def whole_in_plain_transformers(folder: Path) -> None:
    """Assert that a model folder holds what its class wants, and nothing else."""
    import transformers

    named = files.read_json(folder / "config.json")["architectures"][0]
    _, info = getattr(transformers, named).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info


def writes_again(folder: Path) -> None:
    """Assert that a saved model writes as in training."""
    predictor = Predictor.open(folder)
    work: Any = predictor.work
    for line in files.read_json_lines(folder / "reference.jsonl")[:4]:
        batch = work.prompted([Row(0, [np.array(line["tokens"])], None, None)])
        ((_, text, logits_V),) = work.written(predictor.parts, batch, max_new_tokens=REFERENCE_TOKENS, greedy=True)
        assert text == line["label"] and logits_V[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_tasks_share_an_encoder_of_another_family(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    model = tiny.make_tiny_model(tmp_path / "model")
    config = AutoConfig.for_model(family, vocab_size=len(tiny.tiny_vocabulary()), **ENCODERS[family])
    AutoModel.from_config(config).save_pretrained(model)
    run = flow.train(mixture(model, tmp_path, TASKS, QUICK)).path
    for name in map(name_of, TASKS):
        whole_in_plain_transformers(run / "model" / name)
        predictor = Predictor.open(run / "tasks" / name)
        for line in files.read_json_lines(run / "tasks" / name / "reference.jsonl")[:4]:
            said = predictor.outputs([line["text"]], [line["text_pair"]] if "text_pair" in line else None)
            assert predictor.work.numbers(said)[0].ravel().tolist() == pytest.approx(line["logits"], abs=1e-5)


def test_a_writer_and_a_classifier_share_a_gpt2(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    model = tiny_decoder.make_tiny_decoder(tmp_path / "model")
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(AutoTokenizer.from_pretrained(model)), **size)).save_pretrained(model)
    run = flow.train(writers(model, tmp_path, QUICK, classes=True)).path
    for name in ("asked", "kind"):
        whole_in_plain_transformers(run / "model" / name)
    writes_again(run / "tasks" / "asked")


@pytest.mark.parametrize("means", [{}, {"training.neftune": 5}, {"adapter": {"type": "lora", "r": 4}}], ids=["plain", "noise", "lora"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_two_tasks_share_an_encoder_and_a_decoder(family: str, means: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_seq2seq.make_tiny_seq2seq(tmp_path / "model", family=family)
    run = flow.train(translators(model, tmp_path, {**QUICK, **means})).path
    for name in ("whole", "initials"):
        whole_in_plain_transformers(run / "model" / name)
        writes_again(run / "tasks" / name)


def test_writers_begin_from_nothing_together_and_with_classes_not(tmp_path: Path) -> None:
    tokenizer = tiny_decoder.make_tiny_decoder(tmp_path / "model")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 96}
    scratch = {"tokenizer": str(tokenizer), "scratch": {"architecture": "llama", "num_key_value_heads": 2, **size}}
    run = flow.train({**writers(tokenizer, tmp_path, {**QUICK, "training.max_steps": 30}), "model": scratch}).path
    losses = [found["scores"]["test"]["loss"]["value"] for found in files.read_json(run / "metrics.json")["tasks"].values()]
    assert all(loss < np.log(80) for loss in losses), losses
    writes_again(run / "tasks" / "plain")
    with pytest.raises(ConfigError, match="from nothing writes text, and not all tasks do"):
        resolve({**writers(tokenizer, tmp_path, QUICK, classes=True), "model": scratch})
