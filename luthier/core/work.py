"""The words that tasks and the training loop speak to each other: Batch, Terms, Outputs, Part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

MIXED_WITH, MIXED_SHARE = "mixed_with", "mixed_share"
"""Targets of a batch whose rows are mixed: with which row each is, and how much of itself stays."""


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together.

    Args:
        ids: Sample ids of the rows, `(B,)`.
        inputs: What the model is called with, each with rows (or windows of rows) first.
        targets: What the loss compares with.
        num_tokens: Real tokens in the batch, padding left out.
        counts: False for a row that only keeps a process in step with the others; it weighs nothing.
        task: Name of the task that the rows belong to, where a run has several.
        records: What a task keeps of each row beside its tokens, as JSON, where it keeps anything; see `Row.record`.
    """

    ids: list[int]
    inputs: dict[str, Tensor]
    targets: dict[str, Tensor] = field(default_factory=dict)
    num_tokens: int = 0
    counts: bool = True
    task: str | None = None
    records: tuple[str, ...] = ()

    def to(self, device: str) -> Batch:
        """Return the batch with its tensors on `device`."""

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return replace(self, inputs=move(self.inputs), targets=move(self.targets))

    def pinned(self) -> Batch:
        """Return the batch in memory that cannot be swapped out, from which an accelerator copies while the processor goes on."""

        def pin(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.pin_memory() for name, tensor in tensors.items()}

        return replace(self, inputs=pin(self.inputs), targets=pin(self.targets))


class Weighted(NamedTuple):
    """A loss as (sum, weight), never a mean: the engine divides once, by the weight of the whole step."""

    sum: Tensor
    weight: Tensor


class Term(NamedTuple):
    """One term of the loss: its sum, the weight it is divided by, and its coefficient in the total."""

    sum: Tensor
    weight: Tensor
    coefficient: float = 1.0


Terms = dict[str, Term]


@dataclass(frozen=True)
class Outputs:
    """What the model said of some rows: `logits_BC` (float32) and, where known, `targets`, by sample id."""

    ids: np.ndarray
    logits_BC: np.ndarray
    targets: np.ndarray | None = None


@dataclass(frozen=True)
class TokenOutputs:
    """How likely the model found the supervised tokens of some rows, by sample id.

    Args:
        ids: Sample ids.
        nats_B: Negative log-probability of each row's tokens, summed, in nats.
        right_B: How many of them the model found most likely.
        tokens_B: How many there are.
    """

    ids: np.ndarray
    nats_B: np.ndarray
    right_B: np.ndarray
    tokens_B: np.ndarray


@dataclass(frozen=True)
class RowOutputs:
    """What the model said of some rows, in the words of their task: by sample id.

    Args:
        ids: Sample ids.
        said: One object for each row, `(B,)` of dtype object.
    """

    ids: np.ndarray
    said: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[int], said: Sequence[Any]) -> RowOutputs:
        """Return what was said of each row, whatever it is."""
        import numpy as np

        column = np.empty(len(said), object)
        for place, one in enumerate(said):
            column[place] = one
        return cls(np.asarray(ids, np.int64), column)


@dataclass
class Part:
    """A named module and what training does with it: `trained`, `frozen` or `ema`; a checkpoint takes all of it, or what is trained."""

    module: nn.Module
    mode: str = "trained"
    checkpointed: str = "all"


Parts = dict[str, Part]


class Piece(NamedTuple):
    """A token of a row as a person reads it, spaces and all, and whether something is learnt of it."""

    text: str
    learnt: bool = False


class Shown(NamedTuple):
    """A row as the model gets it, in pieces, and in words what it is to learn."""

    pieces: list[Piece]
    target: str


class Answer(NamedTuple):
    """One answer a person can read: labels with their probabilities, best first; or a text that was written, with none.

    Several models together say in `uncertainty` how sure they are, by name.
    """

    label: Any
    probabilities: dict[str, float]
    uncertainty: dict[str, float] | None = None
