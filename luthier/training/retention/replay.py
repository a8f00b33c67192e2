"""Old rows beside new ones: drawn for each new row by itself, carried in its batch, and learnt as a loss term of their own.

Which old rows come with a new one follows from the seed, the epoch and the new row's id. Micro-batches, processes, loading ahead and
a resume do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from luthier.core.work import Batch, Parts, Term, Terms
from luthier.training.step_rules.step_rule import Losses

TERM = "replay"
CARRIED, NUMBER = "old ", "number of rows"
STREAM = 0x01D  # keeps these draws apart from others with the same seed, epoch and id
Load = Callable[[np.ndarray, int], Batch]


@dataclass(frozen=True)
class OldRows:
    """Rows that were learnt before.

    Args:
        num_rows: How many there are.
        collate: Returns some of them as a batch.
        share: Old rows among all rows, on average; between 0 and 1.
        seed: Seed of the run.
        terms: Names of the loss terms that are learnt of them.
    """

    num_rows: int
    collate: Callable[[np.ndarray], Batch]
    share: float
    seed: int
    terms: tuple[str, ...] = ("loss",)

    def beside(self, ids: Sequence[int], epoch: int) -> np.ndarray:
        """Return which old rows come with new rows of these ids in an epoch: of each new row share / (1 - share), on average."""
        wanted = self.share / (1 - self.share)
        drawn = []
        for id_ in ids:
            dice = np.random.default_rng((self.seed, epoch, id_, STREAM))
            number = int(wanted) + int(dice.random() < wanted % 1)
            drawn.append(dice.integers(self.num_rows, size=number))
        return np.concatenate(drawn) if drawn else np.zeros(0, np.int64)

    def loading(self, load: Load) -> Load:
        """Return how a batch is loaded: with old rows in it."""

        def with_old(rows: np.ndarray, epoch: int) -> Batch:
            batch = load(rows, epoch)
            chosen = self.beside(batch.ids, epoch)
            return carrying(batch, self.collate(chosen)) if len(chosen) else batch

        return with_old


def carrying(batch: Batch, old: Batch) -> Batch:
    """Return a batch with another one in it."""
    return replace(
        batch,
        inputs={**batch.inputs, **{CARRIED + name: tensor for name, tensor in old.inputs.items()}},
        targets={
            **batch.targets,
            **{CARRIED + name: tensor for name, tensor in (old.targets | {NUMBER: torch.tensor(len(old.ids))}).items()},
        },
        num_tokens=batch.num_tokens + old.num_tokens,
    )


def parted(batch: Batch) -> tuple[Batch, Batch | None]:
    """Return a batch without the one in it, and the one in it, whose rows are numbered from 0."""

    def sorted_out(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        old = {name.removeprefix(CARRIED): tensor for name, tensor in tensors.items() if name.startswith(CARRIED)}
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(CARRIED)}, old

    (inputs, old_inputs), (targets, old_targets) = sorted_out(batch.inputs), sorted_out(batch.targets)
    new = replace(batch, inputs=inputs, targets=targets)
    number = old_targets.pop(NUMBER, None)
    return new, None if number is None else Batch(list(range(int(number))), old_inputs, old_targets)


@dataclass(frozen=True)
class Replayed:
    """A task at work whose batches carry old rows.

    Args:
        work: Gives the losses of the new rows.
        old: Gives those of the old rows.
        old_parts: Modules that answer the old rows; None: those that answer the new ones.
        weight: Weight of the mean loss of the old rows.
        terms: Names of its terms.
    """

    work: Losses
    old: Losses
    old_parts: Parts | None
    weight: float
    terms: tuple[str, ...] = ("loss",)

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term."""
        new, old = parted(batch)
        known = self.old.weights(old) if old is not None else dict.fromkeys(self.terms, 0.0)
        return self.work.weights(new) | {_name(term): known[term] for term in self.terms}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term, that of the old rows as `replay`."""
        new, old = parted(batch)
        terms = self.work.losses(parts, new)
        if old is None:
            return terms
        found = self.old.losses(self.old_parts or parts, old)
        again = {_name(name): (found[name], self.weight * (1.0 if name == "loss" else found[name].coefficient)) for name in self.terms}
        return terms | {name: Term(term.sum, term.weight, weight) for name, (term, weight) in again.items()}


def learnt_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the loss terms that come from what the rows say: the one called loss; where there is none, all."""
    every = tuple(names)
    return ("loss",) if "loss" in every else every


def _name(term: str) -> str:
    return TERM if term == "loss" else f"{TERM} {term}"
