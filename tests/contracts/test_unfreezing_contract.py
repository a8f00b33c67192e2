"""Every registered way of unfreezing: a pure function of the step that names layers the model has."""

from __future__ import annotations

import random

import pytest

from luthier.optim.schedules.schedule import Horizon
from luthier.optim.unfreezing import unfreezings
from luthier.optim.unfreezing.unfreezing import Unfreezing, turns_over

RUN = Horizon(total_steps=100, steps_per_epoch=25)
every_way = pytest.mark.parametrize("name", unfreezings.names())


def turns(way: Unfreezing, *, num_blocks: int = 6, seed: int = 0) -> list[frozenset[int]]:
    """The layers of each step."""
    return [way.trained(way.period(step, RUN), num_blocks, seed) for step in range(RUN.total_steps)]


def test_the_ways_of_the_issue_are_here() -> None:
    assert {"gradual", "lisa"} <= set(unfreezings.names())


@every_way
@pytest.mark.parametrize("num_blocks", [1, 2, 6, 24])
def test_the_layers_are_layers_of_the_model(name: str, num_blocks: int) -> None:
    found = turns(unfreezings.get(name).example(), num_blocks=num_blocks)
    assert all(turn <= set(range(num_blocks + 1)) for turn in found) and (num_blocks < 6 or len(set(found)) > 1)


@every_way
def test_the_layers_are_a_pure_function_of_the_step(name: str) -> None:
    in_order, steps = turns(unfreezings.get(name).example()), list(range(RUN.total_steps))
    random.Random(0).shuffle(steps)
    again = {step: way.trained(way.period(step, RUN), 6, 0) for step in steps for way in [unfreezings.get(name).example()]}
    assert [again[step] for step in range(RUN.total_steps)] == in_order


@every_way
def test_they_change_as_often_as_was_said(name: str) -> None:
    found = turns(unfreezings.get(name).model_validate({"every": "1 epoch"}))
    assert all(len(set(found[start : start + 25])) == 1 for start in (0, 25, 50, 75)) and found[0] != found[25]


@every_way
def test_the_turns_of_a_run_are_those_of_its_steps(name: str) -> None:
    way = unfreezings.get(name).example()
    found = turns_over(way, RUN, 6, seed=0)
    by_step = [turn.trained for turn in found for _ in range(turn.first, turn.last + 1)]
    assert by_step == turns(way) and found[0].first == 1 and found[-1].last == 100
    assert all(one.last + 1 == other.first and one.trained != other.trained for one, other in zip(found, found[1:], strict=False))
    assert [(turn.first, turn.last, len(turn.trained)) for turn in turns_over(None, RUN, 6, seed=0)] == [(1, 100, 7)]
    assert [turn.trained for turn in turns_over(None, RUN, 6, seed=0, lowest=5)] == [{5, 6}]


def test_gradual_comes_down_from_the_head_or_up_from_the_embeddings() -> None:
    gradual = unfreezings.get("gradual")
    down, up = (gradual.model_validate({"order": order}) for order in ("down", "up"))
    assert [set(down.trained(period, 3, 0)) for period in range(6)] == [set(), {3}, {2, 3}, {1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}]
    assert [set(up.trained(period, 3, 0)) for period in range(6)] == [set(), {0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}]
    assert set(gradual.model_validate({"start": 2}).trained(0, 3, 0)) == {2, 3}


def test_lisa_draws_so_many_blocks_and_others_with_another_seed() -> None:
    way = unfreezings.get("lisa").model_validate({"layers": 2, "every": "1 step"})
    found = turns(way)
    assert all(0 in turn and len(turn) == 3 for turn in found) and len(set(found)) == 15, "every pair of six has its turn"
    assert found != turns(way, seed=1)
    assert way.trained(0, 1, 0) == {0, 1}
