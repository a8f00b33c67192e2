"""The layers of a teacher as targets.

B rows, T tokens, H width of the student's states, E width of the teacher's, A heads, D width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def hidden_distance(student_BTE: Tensor, teacher_BTE: Tensor, mask_BT: Tensor, how: Literal["mse", "cosine"]) -> Tensor:
    """Return how far the states of tokens are from the teacher's, summed over tokens that are no padding.

    Args:
        student_BTE: The student's states, projected to the teacher's width where that differs.
        teacher_BTE: The teacher's states.
        mask_BT: 1 for tokens, 0 for padding.
        how: mse is the squared difference, mean over the width; cosine is 1 - the cosine.

    Reference: TinyBERT, https://arxiv.org/abs/1909.10351; DistilBERT, https://arxiv.org/abs/1910.01108
    """
    with torch.autocast(student_BTE.device.type, enabled=False):
        mine, theirs = student_BTE.float(), teacher_BTE.detach().float()
        if how == "mse":
            apart_BT = (mine - theirs).square().mean(-1)
        else:
            apart_BT = 1 - functional.cosine_similarity(mine, theirs, dim=-1)
        return (apart_BT * mask_BT).sum()


def relation_distance(student_BTH: Tensor, teacher_BTE: Tensor, mask_BT: Tensor, heads: int) -> Tensor:
    """Return how far the relations between values are from the teacher's: a divergence, mean over heads, summed over tokens.

    A relation is the softmax over tokens of the scaled products of their values; widths of both may differ.

    Args:
        student_BTH: The student's values.
        teacher_BTE: The teacher's values.
        mask_BT: 1 for tokens, 0 for padding.
        heads: Into how many both are cut.

    Reference: MiniLM, https://arxiv.org/abs/2002.10957; any number of heads, https://arxiv.org/abs/2012.15828
    """
    with torch.autocast(student_BTH.device.type, enabled=False):
        mine_BATT = _relations(student_BTH.float(), mask_BT, heads)
        theirs_BATT = _relations(teacher_BTE.detach().float(), mask_BT, heads)
        apart_BATT = theirs_BATT.exp() * (theirs_BATT - mine_BATT)
        return (apart_BATT.sum(-1).mean(1) * mask_BT).sum()


def _relations(values_BTH: Tensor, mask_BT: Tensor, heads: int) -> Tensor:
    """Return the logarithm of the relations; padding is as good as never looked at."""
    B, T, width = values_BTH.shape
    heads_BATD = values_BTH.view(B, T, heads, width // heads).transpose(1, 2)
    scores_BATT = heads_BATD @ heads_BATD.transpose(2, 3) * (width // heads) ** -0.5
    return scores_BATT.masked_fill(~mask_BT.bool()[:, None, None, :], -1e4).log_softmax(-1)
