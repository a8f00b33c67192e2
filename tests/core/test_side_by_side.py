"""Pieces on cores of their own: all done, in order, with errors told, and torch's number of threads as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from luthier.core.side_by_side import in_order, side_by_side


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_piece_runs_on_one_core_and_two_at_a_time() -> None:
    met, threads = threading.Barrier(2, timeout=20), []

    def piece() -> None:
        met.wait()  # passes only if both run at once
        threads.append(torch.get_num_threads())

    side_by_side([piece] * 4)
    assert threads == [1] * 4


def test_this_thread_and_later_ones_keep_their_threads() -> None:
    side_by_side([lambda: None] * 2)
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *found] == [2, 2]


def test_the_first_error_is_raised_when_all_have_ended() -> None:
    done = []

    def slow() -> None:
        time.sleep(0.2)
        done.append(True)

    def wrong() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        side_by_side([wrong, slow])
    assert done == [True]


@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_order_and_things_are_taken_as_needed(threads: int) -> None:
    torch.set_num_threads(threads)
    taken = []

    def things() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = in_order(lambda number: (time.sleep(0.002 * (number % 3)), number * 2)[1], things())
    assert [next(results) for _ in range(10)] == list(range(0, 20, 2))
    assert len(taken) <= 13
    assert list(results) == list(range(20, 100, 2))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_in_its_turn(threads: int) -> None:
    torch.set_num_threads(threads)
    results = in_order(lambda number: 6 // number, [3, 2, 0, 1])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
