"""Batches with some rows of each class: every row once, classes together, another order each epoch, the same at each look."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.batches import pad_fraction
from luthier.data.by_class import ClassOrder


@settings(deadline=None, max_examples=80)
@given(
    classes=st.lists(st.integers(0, 6), min_size=1, max_size=90),
    per_class=st.integers(2, 5),
    room=st.integers(2, 6),
    by_length=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_comes_once_with_rows_of_its_class(classes: list[int], per_class: int, room: int, by_length: bool, epoch: int) -> None:
    lengths_N = np.random.default_rng(0).integers(1, 60, len(classes))
    order = ClassOrder(lengths_N, np.array(classes), room * per_class, per_class, seed=1, by_length=by_length)
    batches = order.batches(epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(classes)))
    assert len(batches) == order.num_batches and max(map(len, batches)) <= room * per_class
    alone = sum(count == 1 for rows in batches for count in Counter(classes[row] for row in rows).values())
    assert alone <= sum(count % per_class == 1 for count in Counter(classes).values())
    again = ClassOrder(lengths_N, np.array(classes), room * per_class, per_class, seed=1, by_length=by_length).batches(epoch)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_epochs_differ_and_padding_stays_low() -> None:
    rng = np.random.default_rng(3)
    lengths_N, classes_N = rng.integers(5, 60, 4000), rng.integers(0, 77, 4000)
    order = ClassOrder(lengths_N, classes_N, 32, 4, seed=0)
    first, second = order.batches(0), order.batches(1)
    assert [set(rows) for rows in first] != [set(rows) for rows in second]
    shuffled = ClassOrder(lengths_N, classes_N, 32, 4, seed=0, by_length=False)
    assert pad_fraction(lengths_N, first) < pad_fraction(lengths_N, shuffled.batches(0))
