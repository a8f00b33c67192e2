"""Load windows in other processes, ahead of the training and in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
SECONDS_TO_END = 20  # after a SIGTERM, should the parent not end the worker


def load_ahead(load: Callable[[T], R], wanted: Iterator[T], *, num_workers: int) -> Iterator[R]:
    """Yield `load(item)` for each item, in order, loaded by worker processes; closing the iterator ends them.

    Args:
        load: Called in the workers; it must draw from no global random generator.
        wanted: Items without end; a few are taken ahead.
        num_workers: Number of processes.
    """
    import torch
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Loading(load),  # type: ignore[arg-type]
        sampler=wanted,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="fork",
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),
    )
    items = iter(loader)
    try:
        yield from items
    finally:
        del items


class _Loading:
    """What a DataLoader calls a dataset: the item is the index."""

    def __init__(self, load: Callable[[T], R]) -> None:
        self._load = load

    def __getitem__(self, item: Any) -> Any:
        return self._load(item)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM often reach every process of a group: the parent ends its step first, then the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SECONDS_TO_END))
