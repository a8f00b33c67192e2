"""What every optimiser is: its settings, and how torch's optimiser is made of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

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
        rates: Rates by globs on the names of parameters.
        layer_decay: The top block learns at this share of the rate, each lower one at this share of the one above it, above 0 up to 1.
    """

    learning_rate: float | Literal["auto"] = Field("auto", description="Highest learning rate; auto goes by the model's width.")
    head_learning_rate: float | Literal["auto"] = Field(
        "auto", description="Highest learning rate of newly started layers; auto chooses it."
    )
    weight_decay: float = Field(0.01, ge=0, description="Pull of matrices towards 0 per step, times the rate.")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Lower layers learn slower: the top block at this share of the learning rate, each block below at this share of the "
        "one above, the embeddings slowest; 1: all alike.",
    )
    rates: dict[str, float | str] = Field(
        default_factory=dict,
        description="Rates of parameters by globs on their names: a highest rate such as 1e-4, or a share of what it would be otherwise "
        "such as 0.1x; of several that fit the last counts.",
    )

    rows_are_apart: ClassVar[bool] = False
    """Whether a row of a matrix without gradient and moments is only multiplied by 1 - rate * decay, whatever its other rows do."""

    rate_factor: ClassVar[float] = 1.0
    """What `auto` multiplies AdamW's rate by; not tuned here where it is not 1."""

    inner_apart: ClassVar[bool] = False
    """Whether matrices inside the model are treated unlike embeddings, output layers and new heads, so that groups must tell them apart."""

    looks_at_whole: ClassVar[bool] = False
    """Whether a step needs a whole matrix, so that the model cannot be split among processes."""

    averages: ClassVar[bool] = False
    """Whether it averages the weights itself in place of a falling rate; what `build` returns then has `exchange`, which lets the model
    have the average for its weights, and its own again, bit for bit."""

    @field_validator("rates", mode="before")
    @classmethod
    def _rates_or_shares(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        return {pattern: _rate_or_share(str(pattern), written) for pattern, written in given.items()}

    def kept_bytes(self, shape: Sequence[int], *, inner: bool = True) -> float:
        """Return what is kept for a parameter from step to step: two moments in float32, where an optimiser does not say otherwise.

        Args:
            shape: Shape of the parameter.
            inner: Whether it is a matrix inside the model, for an optimiser that tells those apart (`inner_apart`).
        """
        return 8.0 * math.prod(shape)

    @abstractmethod
    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return torch's optimiser over parameter groups that carry their own `lr` and `weight_decay`."""

    @classmethod
    @abstractmethod
    def example(cls) -> Optimiser:
        """Return settings that the contract tests run on."""


class WithMoments(Optimiser, ABC):
    """What Adam and its kin have in common.

    Args:
        betas: Memory of the gradient's mean and of its square, 0 to below 1.
        eps: Added to the root of the square.
    """

    betas: tuple[float, float] = Field((0.9, 0.999), description="Memory of the gradient's mean and of its square.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the square, against division by 0.")


def _rate_or_share(pattern: str, written: object) -> float | str:
    text = str(written).strip().lower()
    try:
        number = math.nan if isinstance(written, bool) else float(text.removesuffix("x"))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"got {written!r} for {pattern!r}, wanted a rate above 0, such as 1e-4, or a share, such as 0.1x")
    return text if text.endswith("x") else number
