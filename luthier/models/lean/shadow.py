"""Copies of parameters in the type of the products, renewed when the parameters have changed: once per optimiser step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Shadow:
    """One copy of several parameters, one after the other along their first dimension.

    It goes by autograd's version counters, so a fused optimiser, which leaves them alone, needs `increment_version` after its step.

    Args:
        parameters: Matrices of equal width, or vectors; one alone is its own shadow where the type is the same.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._copy: Tensor | None = None
        self._versions: list[int] = []

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """Return the copy in `dtype`."""
        first = self._parameters[0]
        if len(self._parameters) == 1 and first.dtype == dtype:
            return first.detach()
        with torch.inference_mode(False), torch.no_grad():
            return self._renewed(dtype)

    def _renewed(self, dtype: torch.dtype) -> Tensor:
        first = self._parameters[0]
        versions = [parameter._version for parameter in self._parameters]
        if self._copy is None or self._copy.dtype != dtype or self._copy.device != first.device:
            rows = sum(len(parameter) for parameter in self._parameters)
            self._copy = torch.empty(rows, *first.shape[1:], dtype=dtype, device=first.device)
        elif versions == self._versions:
            return self._copy
        start = 0
        for parameter in self._parameters:
            self._copy[start : start + len(parameter)].copy_(parameter)
            start += len(parameter)
        self._versions = versions
        return self._copy
