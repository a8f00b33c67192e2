"""A linear chain over the tags of a row: which tag follows which, exact likelihoods, and the best row of tags.

B rows, N words (padding at the end), C tags. `present_BN` is true where a row has a word; the first is always looked at.

Reference: Lafferty, McCallum and Pereira, Conditional random fields, ICML 2001; Lample and others, https://arxiv.org/abs/1603.01360
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

FORBIDDEN = -1e4  # of a score: never taken while any other way is there, and finite, so that no gradient is lost


class Chain(NamedTuple):
    """Scores of a row's first tag `(C,)`, of a tag (second axis) after another `(C, C)`, and of the last tag `(C,)`."""

    starts_C: Tensor
    follows_CC: Tensor
    ends_C: Tensor


class LinearChain(nn.Module):
    """The learnt scores of a chain; all 0 at the start.

    Args:
        num_tags: Number of tags C.
    """

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.starts = nn.Parameter(torch.zeros(num_tags))
        self.follows = nn.Parameter(torch.zeros(num_tags, num_tags))
        self.ends = nn.Parameter(torch.zeros(num_tags))

    def forward(self, scores_BNC: Tensor) -> Chain:
        """Return the chain in float32, on the device of the scores of the words."""
        device = scores_BNC.device
        return Chain(*(scores.float().to(device) for scores in (self.starts, self.follows, self.ends)))


def lawful_chain(labels: Sequence[str], device: torch.device) -> Chain:
    """Return the chain that only forbids what IOB2 forbids: I of a type that follows neither B nor I of that type.

    Args:
        labels: Names of the tags in IOB2.
        device: Where the scores are.
    """
    number = {label: index for index, label in enumerate(labels)}
    starts_C, follows_CC = torch.zeros(len(labels)), torch.zeros(len(labels), len(labels))
    for after, label in enumerate(labels):
        if label.startswith("I-"):
            starts_C[after] = FORBIDDEN
            allowed = [number[f"{letter}-{label[2:]}"] for letter in "BI" if f"{letter}-{label[2:]}" in number]
            follows_CC[:, after] = FORBIDDEN
            follows_CC[allowed, after] = 0
    return Chain(starts_C.to(device), follows_CC.to(device), torch.zeros(len(labels), device=device))


def negative_log_likelihood(scores_BNC: Tensor, tags_BN: Tensor, present_BN: Tensor, chain: Chain) -> Tensor:
    """Return how unlikely the tags of each row are, in nats `(B,)`; 0 for a row without words.

    Args:
        scores_BNC: Score of each tag at each word, float32.
        tags_BN: The tags; any number where there is no word.
        present_BN: Where there are words.
        chain: Scores of the tags after each other.
    """
    unlikely_B = log_partition(scores_BNC, present_BN, chain) - path_score(scores_BNC, tags_BN, present_BN, chain)
    return torch.where(present_BN[:, 0], unlikely_B, torch.zeros_like(unlikely_B))


def log_partition(scores_BNC: Tensor, present_BN: Tensor, chain: Chain) -> Tensor:
    """Return the logarithm of the summed weight of all rows of tags, `(B,)`."""
    return torch.logsumexp(_forward(scores_BNC, present_BN, chain)[-1] + chain.ends_C, dim=1)


def path_score(scores_BNC: Tensor, tags_BN: Tensor, present_BN: Tensor, chain: Chain) -> Tensor:
    """Return the score of one row of tags, `(B,)`."""
    words_BN = scores_BNC.gather(2, tags_BN.unsqueeze(2)).squeeze(2) * present_BN
    moves_BN = chain.follows_CC[tags_BN[:, :-1], tags_BN[:, 1:]] * present_BN[:, 1:]
    last_B = tags_BN.gather(1, (present_BN.sum(1) - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    return words_BN.sum(1) + moves_BN.sum(1) + chain.starts_C[tags_BN[:, 0]] + chain.ends_C[last_B]


def best_paths(scores_BNC: Tensor, present_BN: Tensor, chain: Chain) -> tuple[Tensor, Tensor]:
    """Return the best row of tags `(B, N)`, and its score `(B,)`; behind the last word the last tag is repeated.

    Reference: Viterbi, 1967.
    """
    best_BC, back = chain.starts_C + scores_BNC[:, 0], []
    same_BC = torch.arange(len(chain.starts_C), device=scores_BNC.device).expand_as(best_BC)
    for word in range(1, scores_BNC.shape[1]):
        values_BC, from_BC = (best_BC.unsqueeze(2) + chain.follows_CC).max(1)
        here_B1 = present_BN[:, word].unsqueeze(1)
        best_BC = torch.where(here_B1, values_BC + scores_BNC[:, word], best_BC)
        back.append(torch.where(here_B1, from_BC, same_BC))
    score_B, tag_B = (best_BC + chain.ends_C).max(1)
    tags = [tag_B]
    for from_BC in reversed(back):
        tags.append(from_BC.gather(1, tags[-1].unsqueeze(1)).squeeze(1))
    return torch.stack(tags[::-1], dim=1), score_B


def marginals(scores_BNC: Tensor, present_BN: Tensor, chain: Chain) -> Tensor:
    """Return how probable each tag is at each word, whatever the other tags are, `(B, N, C)`."""
    return log_marginals(scores_BNC, present_BN, chain).exp()


def log_marginals(scores_BNC: Tensor, present_BN: Tensor, chain: Chain) -> Tensor:
    """Return the logarithms of `marginals`."""
    before = _forward(scores_BNC, present_BN, chain)
    after_BC = chain.ends_C.expand_as(before[0])
    after = [after_BC]
    for word in range(scores_BNC.shape[1] - 1, 0, -1):
        moved_BC = torch.logsumexp(chain.follows_CC + (scores_BNC[:, word] + after_BC).unsqueeze(1), dim=2)
        after_BC = torch.where(present_BN[:, word].unsqueeze(1), moved_BC, chain.ends_C.expand_as(moved_BC))
        after.append(after_BC)
    return (torch.stack(before, dim=1) + torch.stack(after[::-1], dim=1)).log_softmax(2)


def _forward(scores_BNC: Tensor, present_BN: Tensor, chain: Chain) -> list[Tensor]:
    """Return for each word the logarithm of the weight of all ways to each of its tags; behind the last word that of the last."""
    ways = [chain.starts_C + scores_BNC[:, 0]]
    for word in range(1, scores_BNC.shape[1]):
        moved_BC = torch.logsumexp(ways[-1].unsqueeze(2) + chain.follows_CC, dim=1) + scores_BNC[:, word]
        ways.append(torch.where(present_BN[:, word].unsqueeze(1), moved_BC, ways[-1]))
    return ways
