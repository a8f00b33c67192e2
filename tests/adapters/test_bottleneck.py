"""Bottleneck adapters: where they stand in blocks of several families, and a run with one from the first step to its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from adapted import steps_of, train_until
from safetensors.torch import load_file
from tiny_seq2seq import make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs
from transformers import AutoModelForSeq2SeqLM

from luthier import flow
from luthier.adapters.bottleneck import Bottleneck
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.models.sublayers import ends_of
from luthier.serve.predictor import Predictor

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
OTHER = {"vocab_size": 40, "n_positions": 20, "n_embd": 32, "n_layer": 2, "n_head": 4}
FAMILIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "gpt2": (OTHER, "attn.c_proj", "mlp.c_proj"),
    "llama": ({**SIZES, "num_key_value_heads": 2}, "self_attn.o_proj", "mlp.down_proj"),
    "gpt_neox": (SIZES, "attention.dense", "mlp.dense_4h_to_h"),
    "opt": ({**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32}, "self_attn.out_proj", "fc2"),
    "roberta": (SIZES, "attention.output.dense", "output.dense"),
    "distilbert": ({"vocab_size": 40, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}, "attention.out_lin", "ffn.lin2"),
    "modernbert": ({**SIZES, "pad_token_id": 0}, "attn.Wo", "mlp.Wo"),
}


def model_of(family: str, sizes: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(family, **sizes)).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_they_stand_after_attention_and_feed_forward_in_every_block(family: str) -> None:
    sizes, attention, feed_forward = FAMILIES[family]
    model = model_of(family, sizes)
    found = ends_of(model, "adapter.type")
    assert len(found) == 2
    for ends in found:
        block = ends.attention.removesuffix(attention)
        assert ends.attention == block + attention and ends.feed_forward == block + feed_forward
    ids = torch.arange(5)[None]
    with torch.no_grad():
        before = model(input_ids=ids)[0]
        Bottleneck(bottleneck_size=3).attach(model, frozenset())
        assert torch.equal(model(input_ids=ids)[0], before)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == 4 * (2 * 3 * 32 + 3 + 32)
        for parameter in trained:
            parameter.add_(0.1 * torch.randn(parameter.shape))
        assert not torch.allclose(model(input_ids=ids)[0], before, atol=1e-3)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_of_two_stacks_both_have_them_in_the_decoder_after_what_was_read(family: str, tmp_path: Path) -> None:
    base = make_tiny_seq2seq(tmp_path / family, family=family)
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    ends = ends_of(model, "adapter.type")
    sides = ["encoder", "encoder", "decoder", "decoder"]
    assert len(ends) == 4 and all(f"{side}." in end.attention for side, end in zip(sides, ends, strict=True))
    crossing = ["EncDecAttention" in end.attention or "encoder_attn" in end.attention for end in ends]
    assert crossing == [False, False, True, True]
    rows = write_pairs(tmp_path / "rows.jsonl", tiny_pairs(60))
    run = flow.train(pairs_recipe(base, rows, tmp_path / "run", {"adapter": {"type": "bottleneck", "reduction": 4}}))
    trained = load_file(run.model / "adapter_model.safetensors")
    assert len(trained) == 4 * 2 * 4 and all(tensor.abs().max() > 0 for tensor in trained.values())


@pytest.mark.parametrize(
    ("family", "sizes", "said"),
    [
        ("mixtral", {**SIZES, "num_key_value_heads": 2, "num_local_experts": 2}, "mixtral are not one attention and one feed-forward"),
        ("bert", {**SIZES, "intermediate_size": 32}, "bert are not one attention and one feed-forward"),
        ("albert", {**SIZES, "embedding_size": 32}, "runs 2 layers but has the weights of 1"),
    ],
)
def test_blocks_that_cannot_be_told_are_refused(family: str, sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Bottleneck().attach(model_of(family, sizes), frozenset())


def test_one_wider_than_the_states_is_refused() -> None:
    with pytest.raises(ConfigError, match="adapter.bottleneck_size: got 33, and the states of the model have 32"):
        Bottleneck(bottleneck_size=33).attach(model_of("roberta", SIZES), frozenset())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_resumed_measured_and_served_as_it_was_trained(precision: str, tmp_path: Path) -> None:
    model, rows = tiny.make_tiny_model(tmp_path / "bert"), tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(80))
    changes = {
        "adapter": {"type": "bottleneck", "reduction": 4},
        "model.extend_vocabulary": False,
        "optim.learning_rate": 1e-2,
        "training.max_steps": 8,
        "training.save_every": "3steps",
        "training.precision": precision,
    }
    run = flow.train(tiny.tiny_recipe(model, rows, tmp_path / "run", changes)).path
    stopped = train_until(tiny.tiny_recipe(model, rows, tmp_path / "stopped", changes), 4)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(run)
    stored = files.read_json(run / "metrics.json")
    assert stored["parameters"]["adapter"] == 4 * (2 * 8 * 32 + 8 + 32)
    assert flow.evaluate(run)["scores"]["test"] == stored["scores"]["test"]
    lines = files.read_json_lines(run / "reference.jsonl")
    found = Predictor.open(run).outputs([line["text"] for line in lines]).logits_BC
    assert np.abs(found - np.array([line["logits"] for line in lines])).max() <= (1e-5 if precision == "fp32" else 0.02)
    shown = flow.describe_adapter(run)
    assert shown["method"] == "LUTHIER_BOTTLENECK" and shown["heads"] == ["classifier"] and len(shown["target_modules"]) == 4
    with pytest.raises(ConfigError, match="bottleneck is no change of weights"):
        flow.merge(run)
    assert not (run / "merged").exists()
    assert "in a form that only Luthier reads" in (run / "card.md").read_text(encoding="utf-8")
