"""A word embedding that learns only the rows that occur in training; the result is that of learning all of them.

V tokens, U of them occur in training rows, H width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class RowEmbedding(nn.Module):
    """A table whose other rows have no gradient and no moments: decoupled weight decay is all that would ever move them.

    Their decay is one number, applied when they are read. Gradients are added to the touched rows of one lasting buffer.

    Args:
        old: The pretrained embedding, `(V, H)`.
        used_U: Ids that occur in training, sorted, the padding's among them.
        alone: Whether one process trains; several exchange gradients, which then take autograd's way.
    """

    def __init__(self, old: nn.Embedding, used_U: np.ndarray, *, alone: bool = True) -> None:
        super().__init__()
        table = old.weight.detach()
        self.weight = nn.Parameter(table[torch.from_numpy(used_U).to(table.device)])
        place = np.full(len(table), -1)
        place[used_U] = np.arange(len(used_U))
        self.rest = table
        self.place = torch.from_numpy(place).to(table.device)
        self.decay = 1.0
        self.padding_idx = old.padding_idx
        self._padding_place = None if old.padding_idx is None else int(place[old.padding_idx])
        self._gradient = _Gradient(self._padding_place) if alone else None

    @property
    def numbers_besides(self) -> int:
        """Numbers that a checkpoint holds besides the parameter."""
        return self.rest.numel() - self.weight.numel()

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids, one row of width H each.

        Raises:
            IndexError: if gradients are wanted for an id that does not occur in training.
        """
        places = self.place[ids]
        if torch.is_grad_enabled() and self.weight.requires_grad:
            if self._gradient is None:
                return functional.embedding(places, self.weight, self._padding_place)
            rows: Tensor = _Lookup.apply(self.weight, places, self._gradient)
            return rows
        known = places.unsqueeze(-1) >= 0
        return torch.where(
            known, functional.embedding(places.clamp(min=0), self.weight), self._decayed(functional.embedding(ids, self.rest))
        )

    def shrink(self, factor: float) -> None:
        """Decay the other rows: what an optimiser does to a row without gradient.

        Args:
            factor: 1 - rate * decay of one step.
        """
        self.decay *= factor

    def settled(self) -> nn.Embedding:
        """Return one plain embedding with all rows, `(V, H)`."""
        return nn.Embedding.from_pretrained(self._table(), freeze=False, padding_idx=self.padding_idx)

    def _decayed(self, rows: Tensor) -> Tensor:
        return rows if self.decay == 1 else rows * self.decay

    def _table(self) -> Tensor:
        table = self._decayed(self.rest).clone()
        table[self.place >= 0] = self.weight.detach()
        return table

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self._table()
        destination[prefix + "decay"] = torch.tensor(self.decay, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: Any, *rest: Any) -> None:
        table = state_dict[prefix + "weight"]
        with torch.no_grad():
            self.weight.copy_(table[self.place >= 0])
            if prefix + "decay" in state_dict:
                self.decay = float(state_dict[prefix + "decay"])
            else:
                self.rest = table.clone()
                self.decay = 1.0


class _Gradient:
    """One lasting gradient of the table, in which only touched rows are ever set back to 0."""

    def __init__(self, padding: int | None) -> None:
        self._padding = padding
        self._buffer: Tensor | None = None
        self._touched: list[Tensor] = []

    def add(self, weight: nn.Parameter, places_N: Tensor, rows_NH: Tensor) -> None:
        """Add the gradients of some rows; a row that stands for padding has none."""
        if weight.grad is None:
            if self._buffer is None or self._buffer.device != weight.device:
                self._buffer = torch.zeros_like(weight)
            for places in self._touched:
                self._buffer.index_fill_(0, places, 0.0)
            self._touched.clear()
            weight.grad = self._buffer
        self._touched.append(places_N)
        weight.grad.index_add_(0, places_N, rows_NH.to(weight.dtype))
        if self._padding is not None and self._padding >= 0:
            weight.grad[self._padding] = 0.0


class _Lookup(torch.autograd.Function):
    """Rows by place; the gradient goes straight into the buffer."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, places: Tensor, gradient: _Gradient) -> Tensor:
        """Return the rows."""
        ctx.save_for_backward(places)
        ctx.weight, ctx.gradient = weight, gradient
        return functional.embedding(places, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Add to the buffer; nothing is left to return."""
        (places,) = ctx.saved_tensors
        rows = gradients[0]
        ctx.gradient.add(ctx.weight, places.reshape(-1), rows.reshape(-1, rows.shape[-1]))
        return None, None, None
