"""A rate that goes by the scores: it falls where they stand still, a resume is exact, and without validation rows it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from runs import steps_of, train_until, weights_hash

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.recipe import resolve

MakeRecipe = Callable[..., dict[str, Any]]
CHANGES = {
    "training.max_steps": 10,
    "training.eval_every": "2 steps",
    "training.save_every": "2 steps",
    "training.best_metric": "loss",
    "data.split": {"validation": 0.2, "test": 0.2},
    "evaluate.baseline": False,
    "schedule": {"type": "reduce-on-plateau", "warmup": "0 steps", "min_delta": 100.0, "end_factor": 0.2},
}


def test_the_rate_falls_each_time_that_the_score_stands_still(recipe: MakeRecipe) -> None:
    found = steps_of(flow.train(recipe("run", CHANGES)).path)
    highest = found[0]["learning_rate"]
    assert [step["learning_rate"] / highest for step in found] == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2])
    better = {**CHANGES, "schedule": {**CHANGES["schedule"], "min_delta": 0.0, "patience": 5}}
    assert {step["learning_rate"] for step in steps_of(flow.train(recipe("better", better)).path)} == {highest}


@pytest.mark.parametrize("stopped_after", [4, 5])
def test_a_resume_knows_the_scores_so_far(stopped_after: int, recipe: MakeRecipe) -> None:
    whole = flow.train(recipe("whole", CHANGES)).path
    run = train_until(recipe("run", CHANGES), stopped_after)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)


def test_without_validation_rows_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule.type: reduce-on-plateau goes by validation scores.*data.split.validation=0.1"):
        resolve(None, {"schedule.type": "reduce-on-plateau"})
