"""The order of training rows: every row once, budgets kept, little padding, another order each epoch, the same at each look."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.work import Batch
from luthier.data.batches import Order, pad_fraction
from luthier.data.source import EpochSource, Share

MOST_PADDING = 0.05
BUDGETS = (None, 1024, 4096)


def loaded(rows: np.ndarray, epoch: int) -> Batch:
    return Batch([int(row) for row in rows], {})


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80),
    budget=st.integers(1, 200),
    by_length=st.booleans(),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_a_budget_is_kept_by_as_many_batches_in_every_epoch(
    lengths: list[int], budget: int, by_length: bool, seed: int, epoch: int
) -> None:
    lengths_N = np.array(lengths)
    order = Order(lengths_N, 32, seed, by_length=by_length, batch_tokens=budget)
    batches = order.batches(epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == order.num_batches and all(len(rows) for rows in batches)
    assert all(len(rows) == 1 or len(rows) * lengths_N[rows].max() <= budget for rows in batches)
    again = Order(lengths_N, 32, seed, by_length=by_length, batch_tokens=budget).batches(epoch)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def film_reviews(num_rows: int) -> np.ndarray:
    """Lengths as those of imdb: log-normal, mean 230, cut at 512."""
    return np.clip(np.random.default_rng(7).lognormal(np.log(230) - 0.18, 0.6, num_rows), 8, 512).astype(int)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("num_rows", [5000, 25000])
def test_film_reviews_have_little_padding(num_rows: int, budget: int | None) -> None:
    good_order(film_reviews(num_rows), budget)


@pytest.mark.real
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ["sst2", "banking77"])
def test_real_rows_have_little_padding(name: str, budget: int | None) -> None:
    if not (Path(os.environ.get("LUTHIER_DATA", "nowhere")) / name).is_dir():
        pytest.skip(f"LUTHIER_DATA has no {name}")
    from luthier import flow
    from luthier.recipe import resolve

    good_order(flow.prepare(resolve(name)).splits["train"].longest_window_N, budget)


def good_order(lengths_N: np.ndarray, budget: int | None) -> None:
    """Little padding in every epoch, epochs that differ, batches in no order of length, and rows that meet others each time."""
    order = Order(lengths_N, 32, 0, batch_tokens=budget)
    epochs = [order.batches(epoch) for epoch in range(3)]
    assert max(pad_fraction(lengths_N, batches) for batches in epochs) < MOST_PADDING
    assert pad_fraction(lengths_N, Order(lengths_N, 32, 0, by_length=False).batches(0)) > 0.4, "the lengths do differ"
    widths = np.array([lengths_N[rows].max() for rows in epochs[0]])
    assert abs(np.corrcoef(widths[:-1], widths[1:])[0, 1]) < 0.4
    together = [{frozenset(rows.tolist()) for rows in batches if len(rows) > 1} for batches in epochs]
    assert len(together[0] & together[1]) <= max(1, 0.02 * len(together[0]))


@pytest.mark.parametrize("size", [1, 2])
def test_a_source_with_a_budget_goes_on_where_it_stood(size: int) -> None:
    lengths_N = film_reviews(90)
    shares = [Share(rank, size) for rank in range(size)]
    order = Order(lengths_N, 32, 3, batch_tokens=2000)

    def rows_of(steps: int, state: dict[str, int] | None = None) -> tuple[list[list[int]], dict[str, int]]:
        sources = [EpochSource(order, loaded, accumulate=2, share=share) for share in shares]
        for source in sources:
            if state is not None:
                source.load_state_dict(state)
        iterators = [iter(source) for source in sources]
        found = []
        for _ in range(steps):
            windows = [next(iterator) for iterator in iterators]
            assert len({len(window) for window in windows}) == 1
            found.append(sorted(row for window in windows for batch in window if batch.counts for row in batch.ids))
        assert sources[0].steps_per_epoch * 2 in (order.num_batches, order.num_batches + 1)
        return found, sources[0].state_dict()

    whole, _ = rows_of(20)
    first, state = rows_of(7)
    rest, _ = rows_of(13, state)
    assert first + rest == whole


def test_halving_cuts_tokens_so_that_short_rows_still_go_together() -> None:
    lengths_N = np.array([100] * 40 + [10] * 400)
    source = EpochSource(Order(lengths_N, 32, 0, batch_tokens=1000), loaded)
    windows = iter(source)
    next(windows)
    assert not source.is_cut
    source.halve()
    sizes = {int(lengths_N[batch.ids].max()): len(batch.ids) for _ in range(source.steps_per_epoch) for batch in next(windows)}
    assert source.is_cut and sizes == {100: 5, 10: 50}
    assert source.state_dict()["most_tokens"] == 500 and source.halvings == 1
    resumed = EpochSource(Order(lengths_N, 32, 0, batch_tokens=1000), loaded)
    resumed.load_state_dict(source.state_dict())
    assert resumed.is_cut and len(next(iter(resumed))) == len(next(windows)) == 2


@pytest.mark.parametrize("budget", [None, 1000])
def test_batches_come_in_pieces_of_few_tokens(budget: int | None) -> None:
    lengths_N = np.array([100] * 40 + [10] * 400)
    order = Order(lengths_N, 8, 0, batch_tokens=budget)
    whole, cut = iter(EpochSource(order, loaded)), EpochSource(order, loaded, most_tokens=300)
    pieces = iter(cut)
    for _ in range(cut.steps_per_epoch):
        batches, parts = next(whole), next(pieces)
        assert np.concatenate([part.ids for part in parts]).tolist() == np.concatenate([batch.ids for batch in batches]).tolist()
        assert all(len(part.ids) * int(lengths_N[part.ids].max()) <= 300 for part in parts)
        assert len(parts) == -(-len(batches[0].ids) // (300 // int(lengths_N[batches[0].ids].max())))
    assert not cut.is_cut and cut.most_rows <= 30
