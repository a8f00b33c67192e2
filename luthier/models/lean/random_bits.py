"""Dropout masks from 16-bit random numbers: one 64-bit draw decides four elements.

The draws come from numpy's SFC64, seeded for each mask by torch's own generator, whose state is what a checkpoint keeps.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

STEPS = 1 << 15


def dropout_mask(shape: tuple[int, ...], p: float, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Return a mask with 0 where an element is dropped and 1 / (1 - p) where it is kept.

    The probability is rounded to a multiple of 2^-15, and the kept ones are scaled by the rounded one.

    Args:
        shape: Shape of the mask.
        p: Probability of dropping, 0 to below 1.
        dtype: Type of the mask.
        device: Where the mask is made.

    Reference: SFC64, https://numpy.org/doc/stable/reference/random/bit_generators/sfc64.html
    """
    dropped = round(p * STEPS)
    bits = _bits(math.prod(shape), device).view(shape)
    scale = STEPS / (STEPS - dropped)
    if dtype != torch.bfloat16:
        return (bits.bitwise_right_shift_(1) >= dropped - STEPS // 2).to(dtype).mul_(scale)
    pattern = int(torch.tensor(scale, dtype=torch.bfloat16).view(torch.int16))
    below = bits.bitwise_right_shift_(1).sub_(dropped - STEPS // 2).bitwise_right_shift_(15)
    return below.bitwise_not_().bitwise_and_(pattern).view(torch.bfloat16)


def _bits(numbers: int, device: torch.device | str) -> Tensor:
    """Return random numbers of 16 bits."""
    draws = (numbers + 3) // 4
    if torch.device(device).type != "cpu":
        return torch.empty(draws, dtype=torch.int64, device=device).random_(-(2**63), None).view(torch.int16)[:numbers]
    seed = int(torch.empty((), dtype=torch.int64).random_())
    return torch.from_numpy(np.random.SFC64(seed).random_raw(draws).view(np.int16))[:numbers]
