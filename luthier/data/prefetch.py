"""Load windows in a thread of this process, ahead of the training and in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
DEPTH = 2
SECONDS_BETWEEN_LOOKS = 0.1


class _End:
    """What the thread leaves behind when its items are over, or where it failed."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def load_in_thread(load: Callable[[T], R], wanted: Iterator[T]) -> Iterator[R]:
    """Yield `load(item)` for each item, in order; the thread is at most two items ahead, and ends when the iterator is closed.

    Args:
        load: Called in the thread; it must draw from no global random generator.
        wanted: Items, with or without end; read in the thread.

    Raises:
        Exception: what `load` or `wanted` raised, with the traceback it had there, when its turn comes.
    """
    loaded: Queue[R | _End] = Queue(DEPTH)
    closing = threading.Event()
    thread = threading.Thread(target=_fill, args=(loaded, load, wanted, closing), name="luthier-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            found = loaded.get()
            if isinstance(found, _End):
                if found.error is not None:
                    raise found.error
                return
            yield found
    finally:
        closing.set()
        _empty(loaded)
        thread.join()


def _fill(loaded: Queue[R | _End], load: Callable[[T], R], wanted: Iterator[T], closing: threading.Event) -> None:
    end = _End(None)
    try:
        for item in wanted:
            if not _put(loaded, load(item), closing):
                return
    except BaseException as error:  # it is raised again in the thread that reads
        end = _End(error)
    _put(loaded, end, closing)


def _put(loaded: Queue[R | _End], found: R | _End, closing: threading.Event) -> bool:
    """Wait for room; returns whether there was any before somebody closed."""
    while not closing.is_set():
        try:
            loaded.put(found, timeout=SECONDS_BETWEEN_LOOKS)
            return True
        except Full:
            continue
    return False


def _empty(loaded: Queue[R | _End]) -> None:
    try:
        while True:
            loaded.get_nowait()
    except Empty:
        return
