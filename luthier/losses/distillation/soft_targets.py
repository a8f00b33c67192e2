"""The answers of a teacher as targets. B rows, C classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from luthier.core.work import Weighted


def soft_targets(student_BC: Tensor, teacher_BC: Tensor, temperature: float, *, multi_label: bool = False) -> Weighted:
    """Return how far a student's answers are from its teacher's: the Kullback-Leibler divergence times the squared temperature, summed.

    The square keeps the gradient as large as that of labels, whatever the temperature.

    Args:
        student_BC: Scores before softmax or sigmoid.
        teacher_BC: The teacher's scores of the same rows.
        temperature: Both are divided by it.
        multi_label: Whether each label is a yes or no of its own; the weight is then that of all labels of all rows.

    Reference: Hinton et al., https://arxiv.org/abs/1503.02531
    """
    with torch.autocast(student_BC.device.type, enabled=False):
        mine, theirs = student_BC.float() / temperature, teacher_BC.detach().float() / temperature
        if multi_label:
            mine, theirs = (torch.stack([functional.logsigmoid(x), functional.logsigmoid(-x)]) for x in (mine, theirs))
        else:
            mine, theirs = mine.log_softmax(-1), theirs.log_softmax(-1)
        summed = functional.kl_div(mine, theirs, reduction="sum", log_target=True) * temperature**2
    return Weighted(summed, summed.new_tensor(float(student_BC.numel() if multi_label else len(student_BC))))
