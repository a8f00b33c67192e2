"""What is compared: a work, the sides that do it, and what is made of their readings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS = "luthier"


@dataclass(frozen=True)
class Turn:
    """One run of one side.

    Args:
        number: Which pair, from 0; also the seed.
        folder: An empty folder for whatever the side leaves.
        threads: Threads of the matrix library.
        steps: Optimiser steps after which a training stops; None trains to the end and scores it.
    """

    number: int
    folder: Path
    threads: int
    steps: int | None = None


@dataclass(frozen=True)
class Side:
    """Somebody who does a work.

    Args:
        name: What the table calls it.
        command: Gives the words after the interpreter (or the program), for a turn.
        venv: Its environment under bench/.venvs; empty: the one that runs this.
        program: A program of its environment's bin folder instead of the interpreter.
        packages: Whose versions are stored.
        ratio: How many times faster than this side ours is asked to be.
        memory: Largest share of this side's peak memory that ours may take.
        environ: Variables that it needs.
    """

    name: str
    command: Callable[[Turn], list[str]]
    venv: str = ""
    program: str = ""
    packages: tuple[str, ...] = ()
    ratio: float | None = None
    memory: float | None = None
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """Something that Luthier and its peers can both do.

    Args:
        name: Short name, for --works.
        title: What the table says.
        unit: What a reading's `value` is.
        ours: Luthier's side.
        peers: The others.
        more_is_better: False for seconds.
        wall: The value is the wall time of the whole command.
        limit: What ours is asked to reach by itself: at least, or at most where less is better.
        materials: What bench/ours/material.py has to make first.
    """

    name: str
    title: str
    unit: str
    ours: Side
    peers: tuple[Side, ...] = ()
    more_is_better: bool = True
    wall: bool = False
    limit: float | None = None
    materials: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """Ours first."""
        return (self.ours, *self.peers)


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread, or None of nothing."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


def in_turns(num_pairs: int, sides: Sequence[Side]) -> list[tuple[int, Side]]:
    """Return who runs when: every side once, then every side once more, and so on."""
    return [(number, side) for number in range(num_pairs) for side in sides]


def ratios(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], *, more_is_better: bool = True) -> list[float]:
    """Return how many times better ours was in each pair that both sides finished.

    Args:
        ours: Readings, each with its `pair` and `value`.
        theirs: The same of a peer.
        more_is_better: Whether a larger value is better.
    """
    values = {reading["pair"]: reading["value"] for reading in theirs}
    both = [(reading["value"], values[reading["pair"]]) for reading in ours if reading["pair"] in values]
    return [mine / other if more_is_better else other / mine for mine, other in both]


def shares(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> list[float]:
    """Return our peak memory as a share of theirs, in each pair that both sides finished."""
    peaks = {reading["pair"]: reading["peak_bytes"] for reading in theirs}
    return [reading["peak_bytes"] / peaks[reading["pair"]] for reading in ours if reading["pair"] in peaks]


def mean_of(readings: Sequence[dict[str, Any]], key: str) -> float | None:
    """Return the mean of what readings say under a key, or None where they do not."""
    values = [reading[key] for reading in readings if reading.get(key) is not None]
    return statistics.fmean(values) if values else None
