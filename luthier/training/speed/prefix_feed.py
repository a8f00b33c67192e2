"""Batches that carry what frozen layers gave for their rows, and a loss that goes on from there.

B rows, W windows, N rows of the split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from luthier.core.work import Batch, Parts, Terms
from luthier.training.speed.prefix_cache import States
from luthier.training.speed.stand_in import TOKENS, StandIn
from luthier.training.step_rules.step_rule import Losses

T = TypeVar("T")
CARRIED = "prefix states"
Load = Callable[[np.ndarray, int], Batch]


@dataclass(frozen=True)
class Feed:
    """Puts stored states into batches, and a stand-in in the place of the frozen layers.

    Args:
        stand_in: Of the model.
        states: What is stored.
        form: What it is.
        every_row: All rows as one batch with every window cut to one token, where no more than that is needed.
    """

    stand_in: StandIn
    states: States
    form: str
    every_row: EveryRow | None

    def loading(self, load: Load) -> Load:
        """Return how a batch is loaded: with its states, and without its tokens where they are not needed."""

        def with_states(rows: np.ndarray, epoch: int) -> Batch:
            if self.every_row is not None:
                batch, states = self.every_row.batch(rows), self.states.items(rows)
            else:
                batch = load(rows, epoch)
                states = self.states.padded(rows, batch.inputs["attention_mask"].sum(1).numpy())
            return replace(batch, inputs={**batch.inputs, CARRIED: states})

        return with_states

    def going_on(self, call: Callable[[Parts, Batch], T]) -> Callable[[Parts, Batch], T]:
        """Return a call of the model that goes on from the states of its batch, if the batch has any."""

        def fed(parts: Parts, batch: Batch) -> T:
            if CARRIED not in batch.inputs:
                return call(parts, batch)
            inputs = dict(batch.inputs)
            with self.stand_in.fed(self.form, inputs.pop(CARRIED)):
                return call(parts, replace(batch, inputs=inputs))

        return fed

    def losses(self, work: Losses) -> Losses:
        """Return a task at work that goes on from the states of its batches."""
        return _FedLosses(work, self.going_on(work.losses))


@dataclass(frozen=True)
class _FedLosses:
    work: Losses
    call: Callable[[Parts, Batch], Terms]

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term."""
        return self.work.weights(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term."""
        return self.call(parts, batch)


class EveryRow:
    """All rows collated once, each window cut to one token; a batch is then taken from it without touching a row.

    Args:
        collate: Returns some rows as a batch, each window cut to one token.
        num_tokens_N: Real tokens of each row, which the batches tell.
        num_windows_N: Windows of each row.
    """

    CHUNK = 4096

    def __init__(self, collate: Callable[[np.ndarray], Batch], num_tokens_N: np.ndarray, num_windows_N: np.ndarray) -> None:
        self._collate, self._num_tokens_N = collate, num_tokens_N
        self._has_windows = bool((num_windows_N != 1).any())
        if self._has_windows:
            return
        places = range(0, len(num_tokens_N), self.CHUNK)
        batches = [collate(np.arange(start, min(start + self.CHUNK, len(num_tokens_N)))) for start in places]
        self._ids_N = np.concatenate([batch.ids for batch in batches])
        self._inputs = _joined([batch.inputs for batch in batches])
        self._targets = _joined([batch.targets for batch in batches])

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch of some rows."""
        num_tokens = int(self._num_tokens_N[rows].sum())
        if self._has_windows:
            return replace(self._collate(rows), num_tokens=num_tokens)
        chosen = torch.from_numpy(rows)
        inputs = {name: tensor.index_select(0, chosen) for name, tensor in self._inputs.items()}
        targets = {name: tensor.index_select(0, chosen) for name, tensor in self._targets.items()}
        return Batch(self._ids_N[rows].tolist(), inputs, targets, num_tokens)


def _joined(tensors: list[dict[str, Tensor]]) -> dict[str, Any]:
    return {name: torch.cat([of_chunk[name] for of_chunk in tensors]) for name in tensors[0]}


def needs_tokens(form: str) -> bool:
    """Whether the rest of the model needs the tokens of a batch, besides what is stored."""
    return form == TOKENS
