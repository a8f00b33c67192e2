"""How the loss is cut into chunks of positions and blocks of words, and what the cuts share.

R positions of a chunk, H width of a state, V words, K of them in a block. Logits are in bits (of base 2), because powers of 2 take a
third of the time of powers of e on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Shape:
    """How the loss is cut: positions in a chunk, chunks whose exponentials are kept together, words in a block; type of the products."""

    rows: int
    chunks: int
    words: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Smoothing:
    """What is added to plain cross-entropy: a share spread evenly over the words, and z times the squared log-sum-exp."""

    share: float = 0.0
    z: float = 0.0


@dataclass(frozen=True)
class Gradients:
    """Where gradients are added, in float32; None where one is not wanted."""

    states_NH: Tensor | None
    weight_VH: Tensor | None
    bias_V: Tensor | None

    @property
    def of_head(self) -> bool:
        """Whether the weight or the bias wants one."""
        return self.weight_VH is not None or self.bias_V is not None


class Head:
    """The vocabulary head, cut into blocks of words."""

    def __init__(self, weight_VH: Tensor, bias_V: Tensor | None, shape: Shape) -> None:
        self.weight_VH, self.shape = weight_VH.detach(), shape
        self.bias_V = None if bias_V is None else bias_V.detach().float()
        self._bits_V = None if self.bias_V is None else self.bias_V * LOG2_E
        self.num_words = len(weight_VH)
        starts = range(0, self.num_words, shape.words)
        self.blocks = [slice(start, min(start + shape.words, self.num_words)) for start in starts]

    def cast(self) -> Head:
        """Return the head with its weight in the type of the products."""
        return Head(self.weight_VH.to(self.shape.dtype), self.bias_V, self.shape)

    def block(self, words: slice) -> tuple[Tensor, Tensor | None]:
        """Return a block of the weight in the type of the products, and of the bias in bits."""
        return self.weight_VH[words].to(self.shape.dtype), None if self._bits_V is None else self._bits_V[words]

    def mean_word(self) -> tuple[Tensor, Tensor | float]:
        """Return the mean row of the weight and the mean bias."""
        mean_H = self.weight_VH.sum(0, dtype=torch.float32) / self.num_words
        return mean_H, 0.0 if self.bias_V is None else self.bias_V.mean()


class Kept:
    """The exponentials of some chunks, kept for the gradient of the head: each block of words is one matrix.

    Args:
        head: Says the words.
        rows: Positions of the chunks together.
        device: Where the memory is.
    """

    def __init__(self, head: Head, rows: int, device: torch.device) -> None:
        self._flat = torch.empty(rows * head.num_words, device=device, dtype=head.shape.dtype)
        self._rows = rows

    def block(self, words: slice) -> Tensor:
        """Return the exponentials of a block, `(rows, K)`."""
        return self._flat[self._rows * words.start : self._rows * words.stop].view(self._rows, -1)


class Scratch:
    """Memory that every block uses again: logits, their exponentials in float32, and a part of the gradient of the states.

    Args:
        head: Says the sizes.
        states_NH: Says the width and the device.
    """

    def __init__(self, head: Head, states_NH: Tensor) -> None:
        shape, device = head.shape, states_NH.device
        rows = min(shape.rows, len(states_NH))
        size = rows * min(shape.words, head.num_words)
        self._is_float = shape.dtype == torch.float32
        self._exact = torch.empty(size, device=device)
        self._rounded = torch.empty(0 if self._is_float else size, device=device, dtype=shape.dtype)
        self._part = torch.empty(rows * states_NH.shape[1], device=device, dtype=shape.dtype)

    def block(self, num_rows: int, num_words: int, kept_RK: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return where logits, float32 exponentials and exponentials for the products of a block go; some share their memory."""
        exact_RK = self._exact[: num_rows * num_words].view(num_rows, num_words)
        if self._is_float:
            exact_RK = exact_RK if kept_RK is None else kept_RK
            return exact_RK, exact_RK, exact_RK
        rounded_RK = self._rounded[: num_rows * num_words].view(num_rows, num_words)
        return rounded_RK, exact_RK, rounded_RK if kept_RK is None else kept_RK

    def part(self, num_rows: int, width: int) -> Tensor:
        """Return memory for a product with the width of the states."""
        return self._part[: num_rows * width].view(num_rows, width)
