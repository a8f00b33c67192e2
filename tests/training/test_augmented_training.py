"""Training with augmentation: another loss curve, the same one for a seed, and nothing but training rows touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from runs import losses, ticks, train_until, weights_hash

import luthier
from luthier import flow
from luthier.core import yaml
from luthier.data.augment.augmentation import Augmenter
from luthier.data.prepared import Row
from luthier.recipe import resolve
from luthier.stages.layout.begin import lay_out
from luthier.stages.layout.start_head import start_head

MakeRecipe = Callable[..., dict[str, Any]]
BOTH = [{"type": "word-dropout", "probability": 0.3}, {"type": "word-swap", "probability": 0.3}]
QUICK = {"training.max_steps": 12, "evaluate.baseline": False}


@pytest.fixture
def plain_model(tmp_path: Path) -> Path:
    """A model without dropout, so that nothing but the rows makes a curve another one."""
    return tiny.make_tiny_model(tmp_path / "model", dropout=0.0)


def test_the_curve_is_another_one_and_the_same_for_a_seed(recipe: MakeRecipe, plain_model: Path) -> None:
    def curve(name: str, augment: list[Any]) -> list[float]:
        return losses(recipe(name, {**QUICK, "data.augment": augment}, model=plain_model))

    without, once = curve("without", []), curve("once", BOTH)
    assert curve("again", BOTH) == once
    assert sum(one != other for one, other in zip(without, once, strict=True)) >= 10
    assert curve("never", [{"type": "word-dropout", "probability": 0}, {"type": "word-swap", "probability": 0}]) == without


def test_tokens_count_what_was_fed(recipe: MakeRecipe) -> None:
    def num_tokens(name: str, augment: list[Any]) -> int:
        return ticks(recipe(name, {**QUICK, "data.augment": augment}))[-1].tokens

    without = num_tokens("without", [])
    assert num_tokens("swapped", ["word-swap"]) == without
    assert 0.6 * without < num_tokens("dropped", BOTH) < 0.9 * without  # special tokens stay, and 0.7 of the rest


def test_a_resumed_run_is_the_uninterrupted_one(recipe: MakeRecipe) -> None:
    changes = {**QUICK, "training.save_every": "3steps", "training.batch_size": 32, "data.augment": BOTH}
    whole = flow.train(recipe("whole", changes)).path
    run = train_until(recipe("run", changes), 7)
    flow.resume(run)
    assert weights_hash(run) == weights_hash(whole)
    assert weights_hash(flow.train(recipe("plain", changes | {"data.augment": []})).path) != weights_hash(whole)


def test_the_recipe_of_the_run_names_them(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", {"training.max_steps": 1, "evaluate.baseline": False, "data.augment": ["word-swap", BOTH[0]]})).path
    written = yaml.load_file(run / "recipe.yaml")
    assert written["data"]["augment"] == [{"type": "word-swap", "probability": 0.1}, BOTH[0]]
    assert [part.registered_name for part in resolve(run / "recipe.yaml").data.augment] == ["word-swap", "word-dropout"]


def test_prepared_rows_are_shared_with_and_without(recipe: MakeRecipe) -> None:
    before = flow.prepare(resolve(recipe("one")))
    after = flow.prepare(resolve(recipe("other", {"data.augment": BOTH})))
    assert after.from_cache and after.folder == before.folder
    assert flow.prepare(resolve(recipe("third", {"data.split": {"test": 0.3}}))).folder != before.folder


def test_only_training_rows_in_training_steps_are_changed(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    change = Augmenter.__call__

    def watched(self: Augmenter, row: Row, rng: np.random.Generator) -> Row:
        seen.append(row.id)
        return change(self, row, rng)

    monkeypatch.setattr(Augmenter, "__call__", watched)
    changes = {
        "data.augment": BOTH,
        "data.split": {"validation": 0.2, "test": 0.2},
        "training.max_steps": 6,
        "training.eval_every": "2steps",
    }
    resolved = resolve(recipe("run", changes))
    prepared = flow.prepare(resolved)
    bench = lay_out(resolved, prepared)
    assert start_head(bench) > 0 and not seen, "the head is fitted on rows as they are"
    run = flow.train(resolved)
    assert len(seen) == 6 * 8 and set(seen) <= set(prepared.splits["train"].ids_N.tolist())
    luthier.evaluate(run.path)
    luthier.predict(run.path, ["where is my parcel"])
    assert len(seen) == 6 * 8
