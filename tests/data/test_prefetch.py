"""Loading ahead in a thread: in order, resumable, errors come with their traceback, and no thread is left."""

from __future__ import annotations

import itertools
import threading
import time
import traceback

import numpy as np
import pytest

from luthier.core.work import Batch
from luthier.data.batches import Order
from luthier.data.prefetch import DEPTH, load_in_thread
from luthier.data.source import EpochSource


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "luthier-prefetch"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(load_in_thread(lambda number: number * number, iter(range(50)))) == [number * number for number in range(50)]
    assert not threads()


def test_it_is_only_so_far_ahead_and_closing_ends_it() -> None:
    begun: list[int] = []
    items = load_in_thread(lambda number: begun.append(number) or number, itertools.count())
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(begun) < DEPTH + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(begun) == DEPTH + 2, "one handed out, two in the queue, one waiting for room"
    assert threads()
    items.close()  # type: ignore[attr-defined]
    assert not threads()


def broken_load(number: int) -> int:
    if number == 3:
        raise OSError("the disk is gone")
    return number


def test_an_error_comes_when_its_turn_comes_with_its_traceback() -> None:
    items = load_in_thread(broken_load, itertools.count())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone") as caught:
        next(items)
    assert "broken_load" in "".join(traceback.format_exception(caught.value))
    assert not threads()


def sources(fails_at: int | None = None) -> tuple[EpochSource, EpochSource]:
    def load(rows: np.ndarray, epoch: int) -> Batch:
        if epoch == fails_at:
            raise OSError("gone")
        return Batch([int(row) for row in rows], {}, num_tokens=epoch)

    order = Order(np.arange(50) % 9 + 1, 4, 1)
    return EpochSource(order, load, accumulate=2), EpochSource(order, load, accumulate=2, ahead=load_in_thread)


def test_a_source_counts_what_was_handed_out_not_what_was_loaded() -> None:
    plain, ahead = sources()
    plain_windows, windows = iter(plain), iter(ahead)
    for _ in range(10):
        assert next(windows) == next(plain_windows)
        time.sleep(0.002)
        assert ahead.state_dict() == plain.state_dict() and np.array_equal(ahead.taken.rows, plain.taken.rows)
    _, resumed = sources()
    resumed.load_state_dict(ahead.state_dict())
    again = iter(resumed)
    assert [next(again) for _ in range(5)] == [next(windows) for _ in range(5)]
    windows.close()  # type: ignore[attr-defined]
    again.close()  # type: ignore[attr-defined]
    assert not threads()


def test_halving_reaches_what_was_loaded_before() -> None:
    plain, ahead = sources()
    plain_windows, windows = iter(plain), iter(ahead)
    for number in range(8):
        assert next(windows) == next(plain_windows)
        if number == 2:
            time.sleep(0.05)
            plain.halve(), ahead.halve()
            assert ahead.again() == plain.again() and max(len(batch.ids) for batch in ahead.again()) == 2
    windows.close()  # type: ignore[attr-defined]


def test_an_error_of_the_loader_reaches_the_training() -> None:
    _, ahead = sources(fails_at=1)
    windows = iter(ahead)
    for _ in range(ahead.steps_per_epoch):
        next(windows)
    with pytest.raises(OSError, match="gone"):
        next(windows)
    assert not threads()
