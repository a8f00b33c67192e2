"""Schedules against those of transformers and torch, and against the formulas of the papers at points worked by hand.

Theirs are at 0 in step 0 and ours take the first step with a rate above 0, so our step is their step + 1, in a run and a warm-up that
are longer by one.
"""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from transformers import optimization

from luthier.core.units import Duration
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Horizon

STEPS, WARMUP = 120, 19
RUN = Horizon(total_steps=STEPS, steps_per_epoch=40)
FIRST_STEPS = {"num_warmup_steps": WARMUP + 1}
WHOLE_RUN = {**FIRST_STEPS, "num_training_steps": STEPS + 1}


def ours(name: str, steps: range = range(STEPS + 1), *, warmup: int = WARMUP, **settings: Any) -> list[float]:
    schedule = schedules.get(name)(warmup=Duration(warmup, "steps"), **settings)
    return [schedule.factor(step, RUN) for step in steps]


def theirs(make: Any, num_steps: int = STEPS + 2, rate: float = 1.0, **settings: Any) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=rate)
    scheduler = make(optimiser, **settings)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants an optimiser's step before the schedule's
        for _ in range(num_steps):
            found.append(optimiser.param_groups[0]["lr"])
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "settings", "make", "their_settings"),
    [
        ("polynomial", {}, optimization.get_polynomial_decay_schedule_with_warmup, WHOLE_RUN | {"power": 2.0, "lr_end": 0.0}),
        (
            "polynomial",
            {"power": 0.5, "end_factor": 0.25},
            optimization.get_polynomial_decay_schedule_with_warmup,
            WHOLE_RUN | {"power": 0.5, "lr_end": 0.25},
        ),
        ("inverse-sqrt", {}, optimization.get_inverse_sqrt_schedule, FIRST_STEPS),
        ("inverse-sqrt", {"timescale": "50 steps"}, optimization.get_inverse_sqrt_schedule, FIRST_STEPS | {"timescale": 50}),
        ("cosine-restarts", {}, optimization.get_cosine_with_hard_restarts_schedule_with_warmup, WHOLE_RUN | {"num_cycles": 3}),
        ("cosine-restarts", {"cycles": 1}, optimization.get_cosine_schedule_with_warmup, WHOLE_RUN),
        *(
            (
                "warmup-stable-decay",
                {"shape": shape},
                optimization.get_wsd_schedule,
                WHOLE_RUN | {"num_decay_steps": STEPS // 5, "decay_type": shape},
            )
            for shape in ("linear", "cosine", "1-sqrt")
        ),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # without addresses, which differ from process to process
)
def test_as_in_transformers(name: str, settings: dict[str, Any], make: Any, their_settings: dict[str, Any]) -> None:
    assert ours(name, **settings) == pytest.approx(theirs(make, **their_settings)[1:], abs=1e-12)


def test_restarts_that_grow_as_in_torch() -> None:
    cycle = 10
    settings = {"T_0": cycle, "T_mult": 2, "eta_min": 0.1}
    found = theirs(lr_scheduler.CosineAnnealingWarmRestarts, num_steps=cycle * 7, **settings)
    schedule = schedules.get("cosine-restarts")(warmup=Duration(0, "steps"), cycles=3, growth=2, end_factor=0.1)
    run = Horizon(total_steps=cycle * 7, steps_per_epoch=cycle)
    assert [schedule.factor(step, run) for step in range(cycle * 7)] == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("cycles", [2, 3, 6, 7, 49])
def test_every_restart_is_at_the_highest_rate(cycles: int) -> None:
    schedule = schedules.get("cosine-restarts")(warmup=Duration(0, "steps"), cycles=cycles)
    run = Horizon(total_steps=cycles * 11, steps_per_epoch=11)
    assert [schedule.factor(step, run) for step in range(0, cycles * 11, 11)] == pytest.approx([1.0] * cycles)


def test_one_cycle_as_in_torch() -> None:
    peak, whole = WARMUP + 1, STEPS + 2
    settings = {"max_lr": 1.0, "total_steps": whole, "pct_start": (peak + 1) / whole}
    straight = theirs(lr_scheduler.OneCycleLR, whole, anneal_strategy="linear", cycle_momentum=False, **settings)
    assert ours("one-cycle", shape="linear") == pytest.approx(straight[1:], abs=1e-9)
    curved = theirs(lr_scheduler.OneCycleLR, whole, anneal_strategy="cos", cycle_momentum=False, **settings)
    assert ours("one-cycle")[WARMUP:] == pytest.approx(curved[peak:], abs=1e-9)


def test_the_slanted_triangle_of_the_paper() -> None:
    """Equation 3 of Howard and Ruder as it is printed, with T iterations and the cut at the end of the warm-up."""
    highest, ratio, iterations = 1.0, 32, STEPS + 1
    cut = WARMUP + 1
    cut_frac = cut / iterations

    def printed(t: int) -> float:
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        return highest * (1 + p * (ratio - 1)) / ratio

    assert ours("slanted-triangular") == pytest.approx([printed(step + 1) for step in range(STEPS + 1)])


def test_rex_at_points_worked_by_hand() -> None:
    values = ours("rex", warmup=0)
    assert [values[step] for step in (0, 30, 60, 90, 120)] == pytest.approx([1, 6 / 7, 2 / 3, 2 / 5, 0])
    assert ours("rex", warmup=0, end_factor=0.5)[60] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_the_plateau_is_a_share_of_the_whole_run() -> None:
    values = ours("warmup-stable-decay", warmup=20, decay="25%")
    assert [step for step, value in enumerate(values) if value == 1] == list(range(20, 91)) and values[105] == pytest.approx(0.5)
    assert ours("warmup-stable-decay", warmup=20, decay="100%")[70] == pytest.approx(0.5), "no longer than what the warm-up leaves"


def test_a_run_of_inverse_roots_can_be_made_longer() -> None:
    schedule = schedules.get("inverse-sqrt")(warmup=Duration(10, "steps"))
    longer = Horizon(total_steps=10 * STEPS, steps_per_epoch=40)
    assert [schedule.factor(step, RUN) for step in range(STEPS)] == [schedule.factor(step, longer) for step in range(STEPS)]
    assert schedule.factor(10 + 11, RUN) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("settings", [{}, {"patience": 3}, {"cooldown": 2}, {"min_delta": 0.2, "gamma": 0.1}, {"end_factor": 0.2}])
def test_reduce_on_plateau_is_torchs_whose_patience_is_one_less(settings: dict[str, Any]) -> None:
    schedule, dice = schedules.get("reduce-on-plateau")(**settings), random.Random(3)
    scores = [round(0.02 * number + dice.random(), 3) for number in range(60)]
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimiser,
        mode="max",
        factor=schedule.gamma,
        patience=schedule.patience - 1,
        threshold=schedule.min_delta,
        threshold_mode="abs",
        cooldown=schedule.cooldown,
        min_lr=schedule.end_factor,
        eps=0.0,
    )
    found, expected = [], []
    for number, score in enumerate(scores, 1):
        theirs.step(score)
        expected.append(optimiser.param_groups[0]["lr"])
        found.append(schedule.share_left(scores[:number]))
    assert found == pytest.approx(expected, rel=1e-12) and len(set(found)) >= 3
