"""ArcFace on a whole run: a head of cosines that learns, is saved, and answers as it did in training."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from runs import train_until, weights_hash
from torch.nn import functional

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.losses.contrasts import contrasts
from luthier.models.pooled import Cosines
from luthier.recipe import resolve
from luthier.stages.layout.begin import lay_out
from luthier.stages.layout.start_head import start_head

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


@pytest.mark.parametrize("hidden", [[], [8]], ids=["plain", "hidden layer"])
def test_directions_start_from_a_fit_and_contrasts_see_what_they_read(hidden: list[int], recipe: MakeRecipe) -> None:
    changes = {"loss": {"type": "arcface", "contrast": "triplet"}, "model.head": {"pooling": "mean", "hidden": hidden}}
    resolved = resolve(recipe("run", changes))
    bench = lay_out(resolved, flow.prepare(resolved))
    last: Any = bench.parts["model"].module.head[-1]
    before, fed = last.weight.detach().clone(), []
    assert start_head(bench) > 0 and not torch.allclose(last.weight, before)
    hook = last.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    batches = [batch for window in islice(bench.saved.source, 2) for batch in window]
    terms = bench.losses.losses(bench.parts, batches[1])
    hook.remove()
    expected = contrasts.get("triplet")()(fed[0], batches[1].targets["labels"])
    assert float(terms["contrast"].sum) == pytest.approx(float(expected.sum), rel=1e-6) and float(expected.weight) > 0


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
        (
            {"tasks": [{"name": name, "data": {"train": f"{name}.csv"}, "loss": "arcface"} for name in ("one", "other")]},
            "tasks.0.loss.type: arcface has a head of its own",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, changes)
    assert said in str(caught.value)
