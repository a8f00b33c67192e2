"""The batches of several tasks: as many of each as the sampling says, each of one task, the same at each look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.batches import Order
from luthier.data.mixing import Mixture, apportioned
from luthier.data.section import MixingSection

SIZES = (640, 64, 100)  # rows; 40, 4 and 7 batches of 16


def mixture(sampling: str, seed: int = 0, sizes: tuple[int, ...] = SIZES, **settings: Any) -> Mixture:
    orders = [Order(np.arange(size) % 20 + 5, 16, seed) for size in sizes]
    return Mixture(orders, MixingSection(sampling=sampling, **settings), seed)  # type: ignore[arg-type]


def tasks_of(batches: list[np.ndarray], sizes: tuple[int, ...] = SIZES) -> list[int]:
    """The task of each batch, which must be one."""
    starts = np.cumsum([0, *sizes])
    found = [{int(task) for task in np.searchsorted(starts, rows, side="right") - 1} for rows in batches]
    assert all(len(tasks) == 1 for tasks in found)
    return [tasks.pop() for tasks in found]


def test_proportional_takes_every_row_once() -> None:
    mixed = mixture("proportional")
    batches = mixed.batches(3)
    assert sorted(np.concatenate(batches)) == list(range(sum(SIZES)))
    assert np.bincount(tasks_of(batches)).tolist() == [40, 4, 7] and mixed.num_batches == 51
    assert tasks_of(batches) != tasks_of(mixed.batches(4)) and tasks_of(batches) != sorted(tasks_of(batches))


def test_temperature_lies_between_proportional_and_equal() -> None:
    counts = {t: mixture("temperature", temperature=t).counts for t in (1, 2, 1e9)}
    assert counts[1] == (41, 4, 6)  # by rows: 640, 64 and 100 of 804
    assert counts[2] == tuple(np.bincount(tasks_of(mixture("temperature", temperature=2).batches(0))))
    roots = np.sqrt(SIZES)
    assert np.abs(np.array(counts[2]) - 51 * roots / roots.sum()).max() < 1.5
    assert counts[1e9] == mixture("equal").counts == (17, 17, 17)


def test_round_robin_takes_turns() -> None:
    turns = tasks_of(mixture("round_robin").batches(1))
    assert turns == [number % 3 for number in range(51)]


def test_a_small_task_begins_again_and_a_large_one_goes_on_where_it_was() -> None:
    mixed, order = mixture("equal"), Order(np.arange(SIZES[0]) % 20 + 5, 16, 0)
    of_first = [[rows for rows in mixed.batches(epoch) if rows[0] < SIZES[0]] for epoch in range(3)]
    joined = [rows for of_epoch in of_first for rows in of_epoch]
    expected = [*order.batches(0), *order.batches(1)][: len(joined)]
    assert len(joined) == 51 and all((rows == other).all() for rows, other in zip(joined, expected, strict=True))
    of_second = np.concatenate([rows for rows in mixed.batches(0) if SIZES[0] <= rows[0] < SIZES[0] + SIZES[1]])
    counts = np.bincount(of_second - SIZES[0])
    assert counts.min() >= 4 and counts.max() <= 5 and counts.sum() == 17 * 16


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=2, max_size=5).map(tuple),
    sampling=st.sampled_from(["proportional", "temperature", "equal", "round-robin"]),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 6),
)
def test_an_epoch_is_a_pure_function(sizes: tuple[int, ...], sampling: str, seed: int, epoch: int) -> None:
    mixed = mixture(sampling, seed, sizes)
    batches, again = mixed.batches(epoch), mixture(sampling, seed, sizes).batches(epoch)
    assert all((rows == other).all() for rows, other in zip(batches, again, strict=True))
    assert len(batches) == mixed.num_batches == sum(mixed.counts)
    assert np.bincount(tasks_of(batches, sizes), minlength=len(sizes)).tolist() == list(mixed.counts)


@settings(max_examples=100)
@given(shares=st.lists(st.floats(0.001, 1000), min_size=1, max_size=6), extra=st.integers(0, 100))
def test_whole_numbers_add_up(shares: list[float], extra: int) -> None:
    found = apportioned(np.array(shares) / sum(shares), len(shares) + extra)
    assert sum(found) == len(shares) + extra and min(found) >= 1


@pytest.mark.parametrize("wrong", [{"temperature": 0.5}, {"sampling": "random"}, {"samplings": "equal"}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="temperature|sampling"):
        MixingSection(**wrong)
