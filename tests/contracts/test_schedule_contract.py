"""Every registered schedule: a pure function of the step, never negative, with the warm-up and the end it promises.

To renew the sampled curves after a change on purpose: LUTHIER_RENEW=1 pytest tests/contracts/test_schedule_contract.py
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon, Schedule

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "schedules.json"
RUN = Horizon(total_steps=100, steps_per_epoch=25)
SAMPLED = (0, 1, 2, 5, 6, 7, 24, 25, 26, 49, 50, 51, 75, 76, 98, 99)
every_schedule = pytest.mark.parametrize("name", schedules.names())


def curve(schedule: Schedule, run: Horizon = RUN) -> list[float]:
    return [schedule.factor(step, run) for step in range(run.total_steps)]


def test_the_schedules_of_the_issue_are_here() -> None:
    few = {"constant", "linear", "cosine", "step", "exponential", "polynomial", "inverse-sqrt", "rex"}
    more = {"slanted-triangular", "cosine-restarts", "one-cycle", "warmup-stable-decay", "reduce-on-plateau"}
    assert few | more <= set(schedules.names())


@every_schedule
def test_the_rate_ends_where_the_example_says(name: str) -> None:
    schedule, end = schedules.get(name).example()
    assert isinstance(schedule, schedules.get(name))
    assert schedule.factor(RUN.total_steps, RUN) == pytest.approx(end, abs=1e-12)


@every_schedule
def test_a_schedule_is_a_pure_function_of_the_step(name: str) -> None:
    schedule = schedules.get(name)()
    in_order = curve(schedule)
    steps = list(range(RUN.total_steps))
    random.Random(0).shuffle(steps)
    shuffled = {step: schedules.get(name)().factor(step, RUN) for step in steps}
    assert [shuffled[step] for step in range(RUN.total_steps)] == in_order


@every_schedule
@pytest.mark.parametrize("warmup", ["0 steps", "1 step", "6%", "1 epoch", "100%"])
@pytest.mark.parametrize("run", [RUN, Horizon(1, 1), Horizon(3, 7), Horizon(1000, 333)], ids=str)
def test_the_factor_is_never_negative_and_never_above_1(name: str, warmup: str, run: Horizon) -> None:
    schedule = schedules.get(name)(warmup=Duration.parse(warmup))
    values = [schedule.factor(step, run) for step in range(run.total_steps + 3)]
    assert all(0 <= value <= 1 for value in values)
    assert values[0] > 0, "the first step must move the weights"


@every_schedule
@pytest.mark.parametrize(("warmup", "num_steps"), [("20 steps", 20), ("20%", 20), ("1 epoch", 25)])
def test_the_warm_up_rises_in_a_straight_line_to_the_highest_rate(name: str, warmup: str, num_steps: int) -> None:
    schedule = schedules.get(name)(warmup=Duration.parse(warmup))
    values, first = curve(schedule), schedule.first_factor
    assert 0 <= first < 0.1
    assert values[:num_steps] == pytest.approx([first + (1 - first) * (step + 1) / (num_steps + 1) for step in range(num_steps)])
    assert values[num_steps] == pytest.approx(1.0), "the first step after the warm-up has the highest rate"


@every_schedule
def test_after_the_warm_up_the_rate_rises_only_where_that_is_said(name: str) -> None:
    values = curve(schedules.get(name)(warmup=Duration(6, "%")))[6:]
    rises = [later > earlier + 1e-12 for earlier, later in zip(values, values[1:], strict=False)]
    assert any(rises) == schedules.get(name).rises_again


@every_schedule
def test_scores_let_the_rate_fall_only_where_that_is_said(name: str) -> None:
    schedule, dice = schedules.get(name)(), random.Random(0)
    scores = [dice.random() for _ in range(50)]
    left = [schedule.share_left(scores[:number]) for number in range(51)]
    assert left[0] == 1.0 and all(0 <= later <= earlier for earlier, later in zip(left, left[1:], strict=False))
    assert (left[-1] < 1.0) == schedule.watches_scores
    assert [schedules.get(name)().share_left(tuple(scores[:number])) for number in range(51)] == left, "it remembers nothing"


def test_shapes_worked_by_hand() -> None:
    none = Duration(0, "steps")
    by_name = {name: schedules.get(name)(warmup=none) for name in ("constant", "linear", "cosine", "step", "exponential")}
    assert [by_name["linear"].factor(step, RUN) for step in (0, 25, 50)] == pytest.approx([1, 0.75, 0.5])
    assert [by_name["cosine"].factor(step, RUN) for step in (0, 25, 50)] == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5])
    assert [by_name["step"].factor(step, RUN) for step in (0, 24, 25, 50, 99)] == [1, 1, 0.5, 0.25, 0.125]
    assert [by_name["exponential"].factor(step, RUN) for step in (0, 25, 50)] == pytest.approx([1, 0.5, 0.25])
    assert {by_name["constant"].factor(step, RUN) for step in range(100)} == {1.0}


def test_the_sampled_curves_are_as_they_were() -> None:
    now = {name: {str(step): schedules.get(name)().factor(step, RUN) for step in SAMPLED} for name in schedules.names()}
    if os.environ.get("LUTHIER_RENEW"):
        GOLDEN.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    then = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert sorted(now) == sorted(then), "a schedule came or went: LUTHIER_RENEW=1 pytest tests/contracts/test_schedule_contract.py"
    for name, points in then.items():
        assert now[name] == pytest.approx(points, abs=1e-12), name
