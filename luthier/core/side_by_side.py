"""Independent pieces of tensor work on several processor cores, one piece to a core.

torch shares each operation among its threads and has them meet after it, which costs more than small operations take. Here a whole
piece, of many operations, stays on one core, and the cores meet once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")

_pools: dict[int, ThreadPoolExecutor] = {}
MOST = 16
os.register_at_fork(after_in_child=_pools.clear)  # a child has the pools' memory and not their threads


def num_cores() -> int:
    """Return how many pieces run at a time: the threads that torch has here, at most 16."""
    import torch

    return min(torch.get_num_threads(), MOST)


def side_by_side(pieces: Sequence[Callable[[], None]]) -> None:
    """Run pieces that write to memory of their own, and return when all are done.

    Args:
        pieces: Work without gradients; where one raises, the others end first.

    Raises:
        Exception: what the first piece in order raised.
    """
    cores = num_cores()
    if cores == 1 or len(pieces) == 1:
        for piece in pieces:
            piece()
        return
    running: list[Future[None]] = [_pool(cores).submit(piece) for piece in pieces]
    errors = [future.exception() for future in running]
    first = next((error for error in errors if error is not None), None)
    if first is not None:
        raise first


def in_order(call: Callable[[Given], Found], given: Iterable[Given]) -> Iterator[Found]:
    """Yield `call` of each thing in order, computed on as many cores at a time, one to a thing.

    The first one is done before the others start, so that what it makes for all is made once.

    Args:
        call: Work that changes nothing that other calls read.
        given: Things; taken as they are needed.

    Raises:
        Exception: what a call raised, in its turn.
    """
    cores, things = num_cores(), iter(given)
    if cores == 1:
        yield from map(call, things)
        return
    running: deque[Future[Found]] = deque()
    try:
        for number, thing in enumerate(things):
            running.append(_pool(cores).submit(call, thing))
            if number == 0 or len(running) > cores:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            if not future.cancel():
                future.exception()


def _pool(cores: int) -> ThreadPoolExecutor:
    if cores not in _pools:
        import torch

        pool, met = ThreadPoolExecutor(cores, thread_name_prefix="luthier-core", initializer=_alone), Barrier(cores)
        _pools[cores] = pool
        for started in [pool.submit(met.wait) for _ in range(cores)]:
            started.result()
        torch.set_num_threads(cores)  # what a worker sets for itself is also what later threads begin with
    return _pools[cores]


def _alone() -> None:
    import torch

    torch.get_num_threads()  # a thread that has never asked takes the number of the process again at its first operation
    torch.set_num_threads(1)
