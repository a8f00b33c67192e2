"""What every step rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from luthier.core.config import Registered
from luthier.core.work import Batch, Parts, Terms
from luthier.training.world import ALONE, World

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Losses(Protocol):
    """The part of a task's work that a step rule calls."""

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term from the labels alone."""

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term as (sum, weight, coefficient)."""


class Deriving(Protocol):
    """What the loop calls to make a gradient: a step rule, or what stands around one."""

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add the gradient of the window to the parameters, and return the mean of each loss term and their `total`."""


class StepRule(Registered, ABC):
    """How a window of micro-batches becomes a gradient; its fields are its settings."""

    moves_words: ClassVar[bool] = False
    """Whether it moves the word embeddings of a text, so that what frozen layers gave before cannot stand for them."""

    needs_whole_weights: ClassVar[bool] = False
    """Whether it needs every weight in one process."""

    copies_of_weights: ClassVar[int] = 0
    """How many copies of the trained weights it holds while it computes a gradient."""

    tells_tasks_apart: ClassVar[bool] = False
    """Whether it weighs the gradients of several tasks against each other, so that it needs batches of more than one in a step."""

    gathers: ClassVar[bool] = False
    """Whether rows of all batches of a step meet in the loss, so that a step may be cut into pieces where rows meet."""

    @property
    def passes(self) -> float:
        """How often a row goes forward and backward through the model in a step; a forward pass alone is a third of that."""
        return 1.0

    @abstractmethod
    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add the gradient of the window to the parameters, and return the mean of each loss term and their `total`.

        Args:
            work: Gives weights and losses of a batch.
            parts: Named modules.
            window: This process's micro-batches of the step.
            cast: Context of the forward pass.
            world: The processes; weights and means are summed over them, and each takes as many micro-batches.
        """
