"""One core and several give the same: the start of the head, scores, and what frozen layers gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benches import bench_of

from luthier import flow
from luthier.core import files
from luthier.serve.predictor import Predictor
from luthier.stages.layout.start_head import start_head
from luthier.stages.results.measure import outputs_of
from luthier.training import inference

MakeRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(inference, "CORE_TOKENS", 64)  # many batches of tiny rows
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_head_starts_the_same_and_answers_the_same(recipe: MakeRecipe) -> None:
    heads, logits = [], []
    for threads in (1, 3):
        bench = bench_of(recipe("run", {"evaluate.max_batch_tokens": 64, "training.threads": threads}))
        assert torch.get_num_threads() == threads
        assert start_head(bench) > 0
        heads.append(bench.parts["model"].module.classifier.weight.detach().clone())
        logits.append(outputs_of(bench.work, bench.parts, bench.prepared.splits["train"], max_tokens=64, device="cpu").logits_BC)
    assert torch.allclose(heads[0], heads[1], atol=1e-5) and np.allclose(logits[0], logits[1], atol=1e-5)


def test_a_predictor_answers_the_same(tiny_run: Path) -> None:
    texts = [line["text"] for line in files.read_json_lines(tiny_run / "reference.jsonl")] * 3
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(Predictor.open(tiny_run).outputs(texts).logits_BC)
    assert len(texts) > 30 and np.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("freeze", [1, "body"])
def test_what_frozen_layers_gave_is_the_same(freeze: Any, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scores = []
    for threads in (1, 3):
        monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / f"cache-{threads}"))
        changes = {"model.freeze": freeze, "training.max_steps": 6, "training.threads": threads, "evaluate.baseline": False}
        run = flow.train(recipe(f"run-{threads}", changes)).path
        assert list((tmp_path / f"cache-{threads}" / "prefix").iterdir())
        scores.append([line["logits"] for line in files.read_json_lines(run / "reference.jsonl")])
    assert np.allclose(scores[0], scores[1], atol=1e-4)
