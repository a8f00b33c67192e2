"""A word embedding with rows for tokens that the pretrained model did not have.

V old tokens, K new ones, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class GrownEmbedding(nn.Module):
    """Looks up old tokens in the pretrained table and new ones in a table of their own, which starts as the old mean.

    Args:
        old: The pretrained embedding, `(V, H)`.
        num_new: Number of new tokens K; their ids follow the old ones.
    """

    def __init__(self, old: nn.Embedding, num_new: int) -> None:
        super().__init__()
        self.padding_idx = old.padding_idx
        self.weight = old.weight
        self.new = nn.Parameter(old.weight.detach().mean(dim=0).repeat(num_new, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids, one row of width H each."""
        num_old = len(self.weight)
        is_new = (ids >= num_old).unsqueeze(-1)
        old = functional.embedding(ids.clamp(max=num_old - 1), self.weight, self.padding_idx)
        return torch.where(is_new, functional.embedding((ids - num_old).clamp(min=0), self.new), old)

    def settled(self) -> nn.Embedding:
        """Return one plain embedding with all rows, `(V + K, H)`."""
        table = torch.cat([self.weight.detach(), self.new.detach()])
        return nn.Embedding.from_pretrained(table, freeze=False, padding_idx=self.padding_idx)
