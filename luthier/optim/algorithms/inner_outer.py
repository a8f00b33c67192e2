"""One optimiser for the matrices inside a model and AdamW for the rest, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class InnerAndAdamW(torch.optim.Optimizer):
    """Hands each group to an optimiser for matrices or to `torch.optim.AdamW`; both keep their memory in this one's state.

    Args:
        groups: Parameter groups with `lr` and `weight_decay`. `inner` says whether a group holds matrices inside the model; without it,
            groups of matrices alone do.
        make_inner: Makes the optimiser of those groups.
        adamw: Settings of `torch.optim.AdamW`.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, make_inner: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], adamw: dict[str, Any]
    ) -> None:
        for group in groups:
            group.setdefault("inner", all(parameter.ndim == 2 for parameter in group["params"]))
        inner, outer = ([group for group in groups if group["inner"] is is_inner] for is_inner in (True, False))
        self._inner = make_inner(inner) if inner else None
        self._adamw = torch.optim.AdamW(outer, fused=True, **adamw) if outer else None
        super().__init__(groups, {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        """Let both take their step."""
        assert closure is None
        for optimiser in (self._inner, self._adamw):
            if optimiser is not None:
                optimiser.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state; both go on with it."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both work on this one's groups and state."""
        for optimiser, is_inner in ((self._inner, True), (self._adamw, False)):
            if optimiser is not None:
                optimiser.param_groups = [group for group in self.param_groups if group["inner"] is is_inner]
                optimiser.state = self.state
