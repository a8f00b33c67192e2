"""What every optimiser is: its settings, and how torch's optimiser is made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.config import Registered

if TYPE_CHECKING:
    import torch

Group = dict[str, Any]


class Optimiser(Registered, ABC):
    """Settings that all optimisers share, and `build`.

    Args:
        learning_rate: Highest rate of the body; auto chooses it by the model's width.
        head_learning_rate: Highest rate of newly started layers; auto chooses it too.
        weight_decay: Pull of matrices towards 0 per step, times the rate; biases and norms are left alone.
    """

    learning_rate: float | Literal["auto"] = Field("auto", description="Highest learning rate; auto goes by the model's width.")
    head_learning_rate: float | Literal["auto"] = Field(
        "auto", description="Highest learning rate of newly started layers; auto chooses it."
    )
    weight_decay: float = Field(0.01, ge=0, description="Pull of matrices towards 0 per step, times the rate.")

    rows_are_apart: ClassVar[bool] = False
    """Whether a row of a matrix without gradient and moments is only multiplied by 1 - rate * decay, whatever its other rows do."""

    rate_factor: ClassVar[float] = 1.0
    """What `auto` multiplies AdamW's rate by; not tuned here where it is not 1."""

    inner_apart: ClassVar[bool] = False
    """Whether matrices inside the model are treated unlike embeddings, output layers and new heads, so that groups must tell them apart."""

    looks_at_whole: ClassVar[bool] = False
    """Whether a step needs a whole matrix, so that the model cannot be split among processes."""

    @abstractmethod
    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return torch's optimiser over parameter groups that carry their own `lr` and `weight_decay`."""

    @classmethod
    @abstractmethod
    def example(cls) -> Optimiser:
        """Return settings that the contract tests run on."""
