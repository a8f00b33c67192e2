"""A term of the loss that does not depend on the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from luthier.core.work import Batch, Parts, Term, Terms
from luthier.training.step_rules.step_rule import Losses


@dataclass(frozen=True)
class Penalised:
    """A task at work with one more term in its losses.

    The term is counted once for each row and divided by the rows of the step, so that its mean is the penalty however the step is cut.

    Args:
        work: The task at work.
        name: Name of the term.
        penalty: Gives it.
        coefficient: Its coefficient in the total.
    """

    work: Losses
    name: str
    penalty: Callable[[], torch.Tensor]
    coefficient: float

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term; the penalty weighs 1 for each row."""
        return self.work.weights(batch) | {self.name: float(len(batch.ids))}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term and the penalty."""
        rows = len(batch.ids)
        return self.work.losses(parts, batch) | {self.name: Term(rows * self.penalty(), torch.tensor(float(rows)), self.coefficient)}
