"""Virtual tokens before what an encoder reads: the decoder attends to them, padding changes nothing, and plain peft answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import steps_of, train_until
from safetensors.torch import load_file
from tiny_seq2seq import make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.core.work import Part
from luthier.serve.predictor import Predictor
from luthier.training.inference import measuring

SHORT = {"training.max_steps": 8, "training.save_every": "3steps"}
TYPES = {
    "prompt-tuning": {"type": "prompt-tuning", "num_virtual_tokens": 6},
    "p-tuning": {"type": "p-tuning", "num_virtual_tokens": 6, "hidden": 16},
}


def made(folder: Path, family: str, method: str, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    base = make_tiny_seq2seq(folder / family, family=family)
    rows = write_pairs(folder / "rows.jsonl", tiny_pairs(60))
    return pairs_recipe(base, rows, folder / "run", {**SHORT, "adapter": TYPES[method], **changes})


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])}


@pytest.mark.parametrize("method", TYPES)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_padding_changes_nothing_and_plain_peft_answers_the_same(family: str, method: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    recipe = made(tmp_path, family, method)
    run = flow.train(recipe)
    assert {tuple(tensor.shape) for tensor in load_file(run.model / "adapter_model.safetensors").values()} == {(6, 32)}
    host: Any = Predictor.open(run.path).parts["model"].module.model
    rows, written = [[6, 8, 1], [5, 9, 7, 10, 12, 1]], torch.tensor([[0, 15, 16], [0, 17, 18]])
    base = AutoModelForSeq2SeqLM.from_pretrained(recipe["model"]["path"]).eval()
    with measuring({"model": Part(host)}):
        together = host(**padded(rows), decoder_input_ids=written).logits
        alone = [host(**padded([row]), decoder_input_ids=target[None]).logits for row, target in zip(rows, written, strict=True)]
        texts = host.generate(**padded(rows), max_new_tokens=5)
        with torch.no_grad():
            untuned = base(**padded(rows), decoder_input_ids=written).logits
    assert float((together - torch.cat(alone)).abs().max()) <= 1e-5 < float((together - untuned).abs().max())
    plain = PeftModel.from_pretrained(base, run.model).eval()
    with torch.no_grad():
        assert float((plain(**padded(rows), decoder_input_ids=written).logits - together).abs().max()) <= 1e-5
        assert torch.equal(plain.generate(**padded(rows), max_new_tokens=5), texts)


def test_a_resume_is_exact(tmp_path: Path) -> None:
    whole = flow.train(made(tmp_path / "whole", "t5", "prompt-tuning")).path
    stopped = train_until(made(tmp_path / "stopped", "t5", "prompt-tuning"), 4)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(whole)


def test_a_row_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    adapter = {**TYPES["prompt-tuning"], "num_virtual_tokens": 60}
    with pytest.raises(ConfigError, match=r"60 virtual tokens and a row of .* the 64 places of the model \(data\.max_length=4"):
        flow.train(made(tmp_path, "bart", "prompt-tuning", adapter=adapter))


def test_keys_and_values_before_those_of_a_row_are_for_one_stack(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"in one stack, and text-to-text has two \(use adapter\.type=prompt-tuning"):
        flow.train(made(tmp_path, "t5", "prompt-tuning", adapter={"type": "prefix-tuning"}))
