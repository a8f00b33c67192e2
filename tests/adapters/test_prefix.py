"""Prefix tuning: padding changes nothing, blocks made lean do not pass the prefix over, and what cannot take it is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from adapted import bench_of, steps_of, train_until
from tiny_decoder import make_tiny_decoder, tiny_instructions, tiny_words, write_instructions, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.core.work import Part
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.training.inference import measuring

PREFIX = {"adapter": {"type": "prefix-tuning", "num_virtual_tokens": 6}}
SHORT = {"training.max_steps": 8, "training.save_every": "3steps"}
MakeRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Make a recipe on a tiny decoder with a prefix."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_decoder(folder / "llama")
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(120))

    def make(output: Path, **changes: Any) -> dict[str, Any]:
        return writing_recipe(Path(changes.pop("model", model)), rows, output, PREFIX | SHORT | {"data.packing": False} | changes)

    return make


@pytest.fixture(scope="module")
def classifying(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Make a recipe on a tiny BERT with a prefix."""
    folder = tmp_path_factory.mktemp("tiny")
    model, rows = tiny.make_tiny_model(folder / "bert"), tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(60))

    def make(output: Path, **changes: Any) -> dict[str, Any]:
        common = PREFIX | SHORT | {"model.extend_vocabulary": False}
        return tiny.tiny_recipe(Path(changes.pop("model", model)), rows, output, common | changes)

    return make


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])}


def test_padding_changes_nothing_here_nor_in_plain_peft(classifying: MakeRecipe, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    made = classifying(tmp_path / "run")
    run = flow.train(made).path
    host: Any = Predictor.open(run).parts["model"].module
    rows = [[2, 40, 50, 60, 3], [2, 45, 55, 65, 75, 85, 95, 3]]
    with measuring({"model": Part(host)}):
        together = host(**padded(rows)).logits.clone()
        alone = torch.cat([host(**padded([row])).logits for row in rows])
    assert float((together - alone).abs().max()) <= 1e-5
    assert flow.describe_adapter(run)["heads"] == ["classifier"]
    base = AutoModelForSequenceClassification.from_pretrained(made["model"]["path"], num_labels=3)
    plain = PeftModel.from_pretrained(base, run / "model").eval()
    with torch.no_grad():
        assert float((plain(**padded(rows)).logits - together).abs().max()) <= 1e-5


def test_lean_blocks_take_the_prefix(classifying: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "luthier")
    dry = {"training.max_steps": 4, "training.speed.fast_dropout": False}
    lean = flow.train(classifying(tmp_path / "lean", **dry)).path
    assert "prefix-tuning: the blocks are computed as transformers does" in caplog.text
    plain = flow.train(classifying(tmp_path / "plain", **dry, **{"training.speed.lean_blocks": False})).path
    assert [step["loss"] for step in steps_of(lean)] == pytest.approx([step["loss"] for step in steps_of(plain)], abs=1e-5)


def test_a_decoder_is_resumed_measured_and_served_as_it_was_trained(writing: MakeRecipe, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = flow.train(writing(tmp_path / "run")).path
    stopped = train_until(writing(tmp_path / "stopped"), 4)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(run)
    assert list(load_file(run / "model" / "adapter_model.safetensors")) == ["prompt_embeddings"]
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)
    lines = files.read_json_lines(run / "reference.jsonl")
    prompts, inputs = zip(*(line["text"].split("\n") for line in lines), strict=True)
    assert [answer.label for answer in Predictor.open(run).answer(list(prompts), list(inputs))] == [line["label"] for line in lines]


def test_a_text_is_written_with_the_cache_as_without(writing: MakeRecipe, tmp_path: Path) -> None:
    host: Any = bench_of(writing(tmp_path / "run")).parts["model"].module.model
    prompts = torch.tensor([[3, 3, 1, 9, 12, 14], [1, 7, 8, 11, 13, 15]])
    given = {"input_ids": prompts, "attention_mask": (prompts != 3).long(), "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    lengths: list[int] = []
    hook = host.base_model.register_forward_pre_hook(lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    with measuring({"model": Part(host)}):
        found = {use: host.generate(**given, use_cache=use, output_logits=True, return_dict_in_generate=True) for use in (True, False)}
        plain = {**given, "max_new_tokens": 1}
        alone = host.generate(**plain | {"input_ids": prompts[:1, 2:], "attention_mask": torch.ones(1, 4, dtype=torch.int64)})
    hook.remove()
    assert torch.equal(found[True].sequences, found[False].sequences)
    difference = torch.stack(found[True].logits) - torch.stack(found[False].logits)
    assert float(difference.abs().max()) <= 1e-5
    assert lengths[:24] == [6] + [1] * 11 + list(range(6, 18)), "the cache is not used"
    assert int(alone[0, -1]) == int(found[True].sequences[0, 6])


def test_in_bfloat16_it_learns_as_in_float32(writing: MakeRecipe, classifying: MakeRecipe, tmp_path: Path) -> None:
    for name, made in {"decoder": writing, "encoder": classifying}.items():
        found = [
            [step["loss"] for step in steps_of(flow.train(made(tmp_path / f"{name}-{kind}", **{"training.precision": kind})).path)]
            for kind in ("fp32", "bf16")
        ]
        assert found[1] == pytest.approx(found[0], abs=6e-2) and found[1] != found[0]


def test_what_a_network_made_is_served_without_it(writing: MakeRecipe, tmp_path: Path) -> None:
    changes = {"adapter": {**PREFIX["adapter"], "reparameterize": True, "hidden": 16}}
    run = flow.train(writing(tmp_path / "run", **changes)).path
    assert files.read_json(run / "model" / "luthier.json")["adapter"]["reparameterize"] is False
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)


def test_an_encoder_without_a_cache_is_refused(classifying: MakeRecipe, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    tokenizer = AutoTokenizer.from_pretrained(classifying(tmp_path / "run")["model"]["path"])
    config = DistilBertConfig(vocab_size=len(tokenizer), dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=64)
    DistilBertModel(config).save_pretrained(tmp_path / "distilbert")
    tokenizer.save_pretrained(tmp_path / "distilbert")
    with pytest.raises(ConfigError, match=r"a distilbert has no cache.*adapter.type=prompt-tuning"):
        bench_of(classifying(tmp_path / "run", model=tmp_path / "distilbert"))


def test_a_decoder_with_another_kind_of_cache_is_refused(writing: MakeRecipe, tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = tiny_words()
    MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4)).save_pretrained(
        tmp_path / "mamba"
    )
    tokenizer.save_pretrained(tmp_path / "mamba")
    with pytest.raises(ConfigError, match="a mamba has no cache"):
        bench_of(writing(tmp_path / "run", model=tmp_path / "mamba"))


def test_a_row_too_long_behind_the_prefix_is_refused(classifying: MakeRecipe, tmp_path: Path) -> None:
    host: Any = bench_of(classifying(tmp_path / "run")).parts["model"].module
    with pytest.raises(ConfigError, match=r"6 keys before each row and a row of 60 are more than the 64 places.*data.max_length=58"):
        host(input_ids=torch.ones(1, 60, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.speed.activation_checkpointing": True}, "lose the keys and values of prefix-tuning"),
        ({"data.packing": True}, "data.packing=false"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any], said: str, writing: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        bench_of(resolve(writing(tmp_path / "run", **changes)).as_dict())
