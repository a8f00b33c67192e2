"""How likely a vocabulary head finds the right words, a block of words at a time: the logits of all words are never held together.

S positions, R of them at a time, H width of a state, V words, K of them in a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ROWS, WORDS = 512, 4096  # a piece of logits takes 8 MiB


@torch.no_grad()
def likelihoods(states_SH: Tensor, weight_VH: Tensor, tokens_S: Tensor, bias_V: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return for each position the negative log-probability of its word in nats, and whether no word was likelier.

    Args:
        states_SH: What the vocabulary head is applied to.
        weight_VH: Weight of the head.
        tokens_S: The right word of each position, 0 to V - 1.
        bias_V: Bias of the head.

    Shape: `(S,)` float32 and `(S,)` bool, on the device of the states.
    """
    nats_S, best_S = most_likely(states_SH, weight_VH, tokens_S, bias_V)
    return nats_S, best_S == tokens_S


@torch.no_grad()
def most_likely(states_SH: Tensor, weight_VH: Tensor, tokens_S: Tensor, bias_V: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return for each position the negative log-probability of its word in nats, and the first of the likeliest words; `(S,)` each.

    Args:
        states_SH: What the vocabulary head is applied to.
        weight_VH: Weight of the head.
        tokens_S: The right word of each position, 0 to V - 1.
        bias_V: Bias of the head.
    """
    nats, best = [states_SH.new_zeros(0, dtype=torch.float32)], [tokens_S.new_zeros(0)]
    for states_RH, tokens_R in zip(states_SH.split(ROWS), tokens_S.split(ROWS), strict=True):
        sum_R, first_R, wanted_R = _over_blocks(states_RH, weight_VH, tokens_R, bias_V)
        nats.append(sum_R - wanted_R)
        best.append(first_R)
    return torch.cat(nats), torch.cat(best)


def _over_blocks(states_RH: Tensor, weight_VH: Tensor, tokens_R: Tensor, bias_V: Tensor | None) -> tuple[Tensor, ...]:
    """Return the log of the sum of exponentials, the first word of the largest logit, and the logit of the right word."""
    num = len(states_RH)
    sum_R = torch.full((num,), -torch.inf, device=states_RH.device)
    best_R, wanted_R, first_R = sum_R.clone(), sum_R.clone(), torch.zeros_like(tokens_R)
    for start in range(0, len(weight_VH), WORDS):
        stop = min(start + WORDS, len(weight_VH))
        logits_RK = functional.linear(states_RH, weight_VH[start:stop], None if bias_V is None else bias_V[start:stop]).float()
        sum_R = torch.logaddexp(sum_R, logits_RK.logsumexp(1))
        top_R, place_R = logits_RK.max(1)
        first_R = torch.where(top_R > best_R, place_R + start, first_R)
        best_R = torch.maximum(best_R, top_R)
        here_R = (tokens_R >= start) & (tokens_R < stop)
        wanted_R = torch.where(here_R, logits_RK.gather(1, (tokens_R - start).clamp(0, stop - start - 1)[:, None])[:, 0], wanted_R)
    return sum_R, first_R, wanted_R
