"""AdamW with its memory in 8 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SetupError
from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Group, Optimiser, WithMoments

if TYPE_CHECKING:
    import torch

SMALLEST, BLOCK, CODES = 4096, 256, 256  # smaller tensors are kept in full; numbers to a scale; values of 8 bits
PARTS = ("codes", "scale", "qmap")


@optimisers.add
class AdamW8bit(WithMoments):
    """AdamW that keeps both moments in 8 bits, 256 numbers to a scale: a quarter of the memory; needs torchao.

    Reference: https://arxiv.org/abs/2110.02861, torchao.optim.AdamW8bit
    """

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return torchao's `AdamW8bit`; tensors of fewer than 4,096 numbers keep full moments.

        Raises:
            SetupError: if torchao is not installed.
        """
        try:
            from torchao.optim import AdamW8bit as Built
        except ImportError as error:
            what = "optim.type=adamw-8bit needs the package torchao, which is not installed"
            raise SetupError(what, fix="pip install 'luthier[adamw-8bit]', or use optim.type=adamw") from error
        return _with_plain_data(Built)(groups, betas=self.betas, eps=self.eps)

    def kept_bytes(self, shape: Sequence[int], *, inner: bool = True) -> float:
        """Return both moments in 8 bits with their scales and tables; in full where torchao keeps them so."""
        numbers = math.prod(shape)
        coded = numbers >= SMALLEST and numbers % BLOCK == 0
        return 2.0 * (numbers + 4 * numbers / BLOCK + 4 * CODES) if coded else 8.0 * numbers

    @classmethod
    def example(cls) -> Optimiser:
        """Return AdamW8bit at 1e-2."""
        return cls(learning_rate=1e-2)


def _with_plain_data(built: Any) -> Any:
    """Return torchao's class with rates that are numbers and a state of plain tensors, as the loop and the checkpoints want them."""
    import torch
    from torchao.optim.subclass_8bit import OptimState8bit

    class PlainAdamW8bit(built):
        """torchao's optimiser, seen from outside as torch's are."""

        def add_param_group(self, param_group: Group) -> None:
            super().add_param_group(param_group)
            self.param_groups[-1]["lr"] = float(self.param_groups[-1]["lr"])

        def step(self, closure: Any = None) -> Any:
            rates = [group["lr"] for group in self.param_groups]
            try:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = torch.tensor(rate, dtype=torch.float32)
                return super().step(closure)
            finally:
                for group, rate in zip(self.param_groups, rates, strict=True):
                    group["lr"] = rate

        def state_dict(self) -> dict[str, Any]:
            state: dict[str, Any] = super().state_dict()
            return {**state, "state": {index: _taken_apart(values) for index, values in state["state"].items()}}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            state = {index: _put_together(values, OptimState8bit) for index, values in state_dict["state"].items()}
            super().load_state_dict({**state_dict, "state": state})

    return PlainAdamW8bit


def _taken_apart(values: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter with each 8-bit moment as its codes, scales, and table of code values."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if hasattr(value, "codes"):
            plain |= {f"{name}.{part}": getattr(value, part).clone() for part in PARTS}
        else:
            plain[name] = value
    return plain


def _put_together(values: dict[str, Any], moment: Any) -> dict[str, Any]:
    import torch

    whole = {name: value for name, value in values.items() if "." not in name}
    for name in {name.partition(".")[0] for name in values if "." in name}:
        codes, scale, table = (values[f"{name}.{part}"] for part in PARTS)
        whole[name] = moment(codes, scale, table, bool(table.min() < 0), torch.float32)
    return whole
