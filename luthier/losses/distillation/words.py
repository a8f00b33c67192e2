"""The next words of a teacher as targets: a chunk of positions at a time, so that the logits of all positions are never held.

S supervised positions, R of them in a chunk, H width of the student's states, E width of the teacher's, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from luthier.losses.distillation.soft_targets import soft_targets

NUMBERS_AT_ONCE = 2**22  # of logits, for each of the two models


class Scored(NamedTuple):
    """States before a vocabulary head, and the head."""

    states_SH: Tensor
    weight_VH: Tensor
    bias_V: Tensor | None


def soft_words(student: Scored, teacher: Scored, temperature: float, *, chunk: int | None = None) -> Tensor:
    """Return the Kullback-Leibler divergence of the words that both expect, times the squared temperature, summed over positions.

    Logits are made in the forward pass, dropped, and made again in the backward pass. Where one model has more rows in its head than
    the other (padding of the table), only those that both have are compared.

    Args:
        student: The student's states of the supervised positions.
        teacher: The teacher's.
        temperature: Both scores are divided by it.
        chunk: Positions at a time; none: as many as make 4 million logits.
    """
    num_words = min(len(student.weight_VH), len(teacher.weight_VH))
    rows = chunk or max(1, NUMBERS_AT_ONCE // num_words)

    def apart(states_RH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, theirs_RE: Tensor) -> Tensor:
        mine_RV = functional.linear(states_RH, weight_VH, bias_V)
        with torch.no_grad():
            theirs_RV = functional.linear(theirs_RE, *_cut(teacher, num_words))
        return soft_targets(mine_RV, theirs_RV, temperature).sum

    total = student.states_SH.new_zeros((), dtype=torch.float32)
    for mine_RH, theirs_RE in zip(student.states_SH.split(rows), teacher.states_SH.split(rows), strict=True):
        total = total + checkpoint(apart, mine_RH, *_cut(student, num_words), theirs_RE, use_reentrant=False, preserve_rng_state=False)
    return total


def _cut(scored: Scored, num_words: int) -> tuple[Tensor, Tensor | None]:
    return scored.weight_VH[:num_words], None if scored.bias_V is None else scored.bias_V[:num_words]
