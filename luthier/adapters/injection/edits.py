"""Changes of the states that blocks give, at the first or last positions of each row.

B rows, T positions, H width of the states, R rank.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Positions:
    """Which positions of the rows that are going through a model are changed; every thread has rows of its own.

    Args:
        body: The model without its head.
        first: So many at the beginning of each row.
        last: So many at its end.
    """

    def __init__(self, body: nn.Module, first: int, last: int) -> None:
        self.first, self.last = first, last
        self._names = list(inspect.signature(body.forward).parameters)
        self._seen: dict[int, Tensor] = {}
        self._latest = torch.zeros(0)
        body.register_forward_pre_hook(self._look, with_kwargs=True)

    @property
    def chosen_BT(self) -> Tensor:
        """Whether each position is changed; in a thread that only computes again for a backward pass, as it was last seen."""
        return self._seen.get(threading.get_ident(), self._latest)

    def _look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._latest = chosen_of(dict(zip(self._names, args, strict=False)) | kwargs, self.first, self.last)
        self._seen[threading.get_ident()] = self._latest


def chosen_of(given: dict[str, Any], first: int, last: int) -> Tensor:
    """Return which positions are among the first or last of their rows, `(B, T)`, padding left out.

    Args:
        given: What a body is called with. Its mask may begin with positions of a cache; rows laid end to end are told by their places.
        first: So many at the beginning of each row.
        last: So many at its end.
    """
    ids_BT = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"][..., 0]
    length, mask, places_BT = ids_BT.shape[1], given.get("attention_mask"), given.get("position_ids")
    if mask is not None and mask.ndim == 2:
        real_BT = mask.bool()
        count_BT = real_BT.cumsum(1)
        chosen_BT = real_BT & ((count_BT <= first) | (count_BT[:, -1:] - count_BT < last))
        return chosen_BT[:, -length:]
    cache = given.get("past_key_values")
    before = 0 if cache is None else int(cache.get_seq_length())
    ordinary_BT = before + torch.arange(length, device=ids_BT.device)[None]
    return ((ordinary_BT if places_BT is None else places_BT) < first) | (ordinary_BT >= before + length - last)


class Edit(nn.Module):
    """h + R^T (W h + b - R h) with orthonormal rows of R; W begins as R, so that it changes nothing at first.

    Args:
        width: H.
        rank: Rows of R.
        positions: Which positions it changes; none: all.
    """

    def __init__(self, width: int, rank: int, positions: Positions | None) -> None:
        super().__init__()
        self.on, self.positions = True, positions
        self.basis = nn.Parameter(nn.init.orthogonal_(torch.empty(width, rank)))
        self.weight = nn.Parameter(orthonormal(self.basis.detach()).T.clone())
        self.bias = nn.Parameter(torch.zeros(rank))

    def forward(self, states_BTH: Tensor) -> Tensor:
        """Return the states, changed; in float32, as they are saved."""
        if not self.on:
            return states_BTH
        with torch.autocast(states_BTH.device.type, enabled=False):
            rows_HR = orthonormal(self.basis)
            change_BTR = functional.linear(states_BTH.float(), self.weight - rows_HR.T, self.bias)
            if self.positions is not None:
                change_BTR = change_BTR * self.positions.chosen_BT[:, : states_BTH.shape[1], None]
            return states_BTH + functional.linear(change_BTR, rows_HR).to(states_BTH.dtype)

    def after(self, _: nn.Module, __: Any, given: Any) -> Any:
        """Change what a block gives, alone or first of several."""
        return (self(given[0]), *given[1:]) if isinstance(given, tuple) else self(given)


def orthonormal(basis_HR: Tensor) -> Tensor:
    """Return orthonormal columns that span the same; of a matrix with such columns, itself."""
    columns_HR, upper_RR = torch.linalg.qr(basis_HR)
    return columns_HR * upper_RR.diagonal().sign()
