"""Which documents share a sequence, so that little of a batch is padding: best fit, shuffled.

N documents.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from luthier.core.errors import DataError

POOL_PACKS = 64  # documents of about so many packs are fitted together: more waste less, fewer shuffle better


def packed_order(lengths_N: np.ndarray, *, capacity: int, batch_size: int, seed: int, epoch: int) -> list[list[np.ndarray]]:
    """Return the batches of one epoch, each a list of packs; a pure function of its arguments, so that a resume finds the same order.

    All documents are shuffled and cut into pools; each pool is packed by best fit, the longest document first. The packs of all pools are
    shuffled, and the documents of each pack.

    Args:
        lengths_N: Length of each document in tokens.
        capacity: Most tokens in a pack.
        batch_size: Packs in a batch; the last batch may be smaller.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.

    Returns:
        Batches of packs; a pack is the row indices of its documents.

    Raises:
        DataError: if a document is empty or longer than the capacity.
    """
    lengths_N = np.asarray(lengths_N)
    _check(lengths_N, capacity)
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths_N))
    packs: list[np.ndarray] = []
    for pool in _pools(order, lengths_N, capacity):
        packs += [generator.permutation(pack) for pack in _best_fit(pool, lengths_N, capacity)]
    shuffled = [packs[index] for index in generator.permutation(len(packs))]
    return [shuffled[start : start + batch_size] for start in range(0, len(shuffled), batch_size)]


def waste(batches: list[list[np.ndarray]], lengths_N: np.ndarray, *, capacity: int) -> float:
    """Return the share of the packs' capacity that holds no token, 0 to 1.

    Args:
        batches: What `packed_order` gave.
        lengths_N: Length of each document in tokens.
        capacity: Most tokens in a pack.
    """
    packs = [pack for batch in batches for pack in batch]
    return 1 - sum(int(lengths_N[pack].sum()) for pack in packs) / (capacity * max(len(packs), 1)) if packs else 0.0


def _check(lengths_N: np.ndarray, capacity: int) -> None:
    for fault, rows in (("longer than", np.flatnonzero(lengths_N > capacity)), ("empty, not of", np.flatnonzero(lengths_N < 1))):
        if len(rows):
            what = f"{len(rows)} documents are {fault} {capacity} tokens; the first is document {rows[0]} with {lengths_N[rows[0]]}"
            raise DataError(what, fix="cut documents to max_length before they are packed, and leave out empty ones")


def _pools(order: np.ndarray, lengths_N: np.ndarray, capacity: int) -> list[np.ndarray]:
    """Cut the shuffled documents where the tokens of a pool are reached."""
    if not len(order):
        return []
    number = (np.cumsum(lengths_N[order]) - 1) // (capacity * POOL_PACKS)
    return np.split(order, np.flatnonzero(np.diff(number)) + 1)


def _best_fit(pool: np.ndarray, lengths_N: np.ndarray, capacity: int) -> list[list[int]]:
    """Put each document, the longest first, into the pack it fills best."""
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # room left and pack, sorted
    for row in pool[np.argsort(-lengths_N[pool], kind="stable")].tolist():
        length = int(lengths_N[row])
        place = bisect_left(rooms, (length, -1))
        if place == len(rooms):
            room, number = capacity, len(packs)
            packs.append([])
        else:
            room, number = rooms.pop(place)
        packs[number].append(row)
        if room > length:
            insort(rooms, (room - length, number))
    return packs
