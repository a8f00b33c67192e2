"""GradCache: the gradient of one large batch, however many batches it comes in, with the same dropout in both passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from row_tasks.sentence_similarity import related_rows, scored_rows
from runs import steps_of, train_until, weights_hash
from torch import Tensor

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.layout.decide import require_one_process
from luthier.stages.layout.feeding import most_tokens_at_once
from luthier.training.step_rules import step_rules

Make = Callable[..., dict[str, Any]]
CUTS = [[range(12)], [range(4), range(4, 8), range(8, 12)], [range(1), range(1, 12)]]
TASKS: dict[str, dict[str, Any]] = {
    "pairs": {"rows": related_rows(40)},
    "triplets": {"rows": related_rows(40, negatives=True)},
    "nearest": {"rows": related_rows(40), "loss": "triplet"},
    "scores": {"rows": scored_rows(40), "matryoshka": [32, 8]},
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def recipe(
        model: Path, rows: list[dict[str, object]], changes: dict[str, Any] | None = None, name: str = "run", **task: Any
    ) -> dict[str, Any]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        settings = {"task": {"type": "sentence-similarity", **task}, "training.step_rule": "grad-cache"}
        return tiny.tiny_recipe(model, path, tmp_path / name, settings | (changes or {}))

    return recipe


def laid_out(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def gradient(bench: Bench, rule: str, cuts: list[range]) -> tuple[dict[str, float], Tensor]:
    split, module = bench.prepared.splits["train"], bench.parts["model"].module
    module.zero_grad()
    torch.manual_seed(3)
    window = [bench.work.collate([split.row(row) for row in rows]) for rows in cuts]
    means = step_rules.get(rule)().gradient(bench.losses, bench.parts, window, nullcontext())
    return means, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_any_split_gives_the_gradient_of_the_whole_batch(task: dict[str, Any], make: Make, still_model: Path) -> None:
    bench = laid_out(make(still_model, **task))
    means, whole = gradient(bench, "accumulate", CUTS[0])
    assert float(whole.abs().max()) > 1e-3
    for cuts in CUTS:
        found_means, found = gradient(bench, "grad-cache", cuts)
        assert float((found - whole).abs().max()) <= 1e-5
        assert found_means == pytest.approx(means, rel=1e-5)
    _, apart = gradient(bench, "accumulate", CUTS[1])
    assert float((apart - whole).abs().max()) > 1e-3, "the rows meet in the loss"


def test_both_passes_drop_the_same(make: Make, tiny_model: Path) -> None:
    bench = laid_out(make(tiny_model, **TASKS["pairs"]))
    means, whole = gradient(bench, "accumulate", CUTS[0])
    after = torch.get_rng_state()
    found_means, found = gradient(bench, "grad-cache", CUTS[0])
    assert torch.equal(after, torch.get_rng_state()), "what is drawn next does not depend on the step rule"
    assert float((found - whole).abs().max()) <= 1e-5 and found_means == pytest.approx(means, rel=1e-5)
    bench.parts["model"].module.eval()
    assert float((gradient(bench, "grad-cache", CUTS[0])[1] - whole).abs().max()) > 1e-4, "there was dropout"


def test_a_run_in_pieces_is_the_run_of_the_whole_batch(make: Make, still_model: Path) -> None:
    """Also where pieces are limited by their tokens; and a stopped run goes on as if it had not been stopped."""
    base = {"training.max_steps": 4, "training.group_by_length": False, "training.save_every": "2steps", "evaluate.baseline": False}
    rows = related_rows(40)
    whole = {**base, "training.batch_size": 16, "training.step_rule": "accumulate"}
    pieces = {**base, "training.batch_size": 4, "training.gradient_accumulation_steps": 4}
    tokens = {**base, "training.batch_size": 16, "training.most_tokens_at_once": 64}
    losses = [
        [step["loss"] for step in steps_of(flow.train(make(still_model, rows, changes, name)).path)]
        for name, changes in {"whole": whole, "pieces": pieces, "tokens": tokens}.items()
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] < losses[0][0]
    stopped = train_until(make(still_model, rows, pieces, "stopped"), 3)
    flow.resume(stopped)
    assert weights_hash(stopped) == weights_hash(stopped.parent / "pieces")


def test_what_may_be_cut_and_what_may_not(make: Make, still_model: Path) -> None:
    rows = related_rows(40)
    gathered = resolve(make(still_model, rows, {"training.most_tokens_at_once": 64}))
    assert gathered.rows_meet and gathered.additive and most_tokens_at_once(gathered, "cpu") == 64
    plain = resolve(make(still_model, rows, {"training.step_rule": "accumulate"}))
    assert plain.rows_meet and not plain.additive and most_tokens_at_once(plain, "cpu") is None
    alone = resolve(make(still_model, rows, {"training.step_rule": "accumulate"}, loss="cosine"))
    assert not alone.rows_meet and alone.additive
    two: Any = SimpleNamespace(size=2)
    with pytest.raises(ConfigError, match="task.loss: compares the rows of a batch, and each of 2 processes has a part of them"):
        require_one_process(gathered, two)
