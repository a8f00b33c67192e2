"""Everything of a run that must survive a stop, besides weights and optimiser."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

RandomState = tuple[dict[str, torch.Tensor], dict[str, Any]]


@dataclass
class TrainingState:
    """Counters of a run.

    Args:
        step: Finished optimiser steps.
        samples: Rows seen.
        tokens: Real tokens seen.
        seconds: Time of the steps, evaluation and saving left out.
        skipped_in_row: Steps in a row that were skipped because of a non-finite loss or gradient.
        evaluated_step: Last step whose scores are known.
        best_score: Best validation score so far.
        best_step: Step of the best score.
        without_gain: Evaluations since the best score.
        scores: The validation score of each evaluation, oldest first, turned so that higher is better.
        stopped_early: Whether early stopping ended the run.
        loss_scale: State of the loss scaling of fp16, or None.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_in_row: int = 0
    evaluated_step: int = 0
    best_score: float | None = None
    best_step: int | None = None
    without_gain: int = 0
    scores: list[float] = field(default_factory=list)
    stopped_early: bool = False
    loss_scale: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the counters as plain data."""
        return asdict(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over counters that `state_dict` gave."""
        for name, value in saved.items():
            setattr(self, name, value)


def random_state() -> RandomState:
    """Return the state of every global random generator: tensors, and plain data."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, np.int64))
    plain = {"python": [version, list(words), gauss], "numpy": [str(name), int(position), int(has_gauss), float(cached)]}
    return tensors, plain


def restore_random_state(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> None:
    """Put every global random generator back into a state that `random_state` gave."""
    torch.set_rng_state(tensors["torch"])
    for name, state in tensors.items():
        if name.startswith("cuda.") and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda.")))
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
    name, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the context anything may draw from the global random generators, as libraries do when imported; no step notices."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(*before)


def seed_everything(seed: int) -> None:
    """Seed every global random generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
