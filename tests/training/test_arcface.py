"""ArcFace on a whole run: a head of cosines that learns, is saved, and answers as it did in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from runs import train_until, weights_hash
from torch.nn import functional

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.models.pooled import Cosines
from luthier.recipe import resolve
from luthier.stages.begin import lay_out

MakeRecipe = Callable[..., dict[str, Any]]
ARCFACE = {"loss": {"type": "arcface", "margin": 0.2, "scale": 8.0}, "model.head": {"pooling": "mean"}}


def test_the_head_gives_cosines(recipe: MakeRecipe) -> None:
    resolved = resolve(recipe("run", ARCFACE))
    bench = lay_out(resolved, flow.prepare(resolved))
    module: Any = bench.parts["model"].module
    last, batch = module.head[-1], next(iter(bench.saved.source))[0]
    assert isinstance(last, Cosines) and last.bias is None and last.weight.abs().max() > 0
    fed: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    logits = module(**batch.inputs).logits
    expected = torch.stack([8 * functional.cosine_similarity(fed[0], direction.unsqueeze(0)) for direction in last.weight], dim=1)
    assert torch.allclose(logits, expected, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert last(fed[0].bfloat16()).dtype == torch.float32


def test_it_learns_and_answers_as_in_training(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", ARCFACE | {"training.max_steps": 60})).path
    scores = files.read_json(run / "metrics.json")["scores"]["test"]
    assert scores["accuracy"]["value"] > 0.8
    references = list(files.read_json_lines(run / "reference.jsonl"))
    answers = list(flow.predict(run, [line["text"] for line in references]))
    assert [answer.label for answer in answers] == [line["label"] for line in references]
    assert max(abs(value) for line in references for value in line["logits"]) <= 8.001
    for answer, line in zip(answers, references, strict=True):
        assert max(answer.probabilities.values()) == pytest.approx(max(line["probabilities"].values()), abs=1e-4)
    assert np.ptp([line["logits"][0] for line in references]) > 1


def test_a_resumed_run_is_the_uninterrupted_one(recipe: MakeRecipe) -> None:
    changes = {"training.max_steps": 6, "training.save_every": "2steps", "evaluate.baseline": False, "loss": {"type": "arcface"}}
    whole = flow.train(recipe("whole", changes)).path
    run = train_until(recipe("run", changes), 3)
    flow.resume(run)
    assert weights_hash(run) == weights_hash(whole)
    heads = [files.sha256_file(folder / "model" / "luthier_head.safetensors") for folder in (whole, run)]
    assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "arcface", "adapter": "lora"}, "loss.type: arcface has a head of its own, and an adapter keeps"),
        ({"loss": {"type": "arcface", "mixup": {}}}, "loss.mixup.at: mixes what a linear layer reads"),
        ({"loss": {"type": "arcface", "margin": 2}}, "loss.margin"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, changes)
    assert said in str(caught.value)
