"""Parameters that learn at a multiple of their group's rate, such as the second factors of LoRA+."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def at_ratio(groups: list[dict[str, Any]], parameters: Iterable[nn.Parameter], ratio: float) -> list[dict[str, Any]]:
    """Move parameters into groups of their own, at a multiple of the rate.

    Args:
        groups: Groups for torch, each with `name`, `params` and `lr`.
        parameters: Those that are moved.
        ratio: By how much their rate is multiplied.

    Returns:
        What is left of each group, followed by what was moved out of it; empty ones are left out.
    """
    moved = {id(parameter) for parameter in parameters}
    found: list[dict[str, Any]] = []
    for group in groups:
        rest = [p for p in group["params"] if id(p) not in moved]
        own = [p for p in group["params"] if id(p) in moved]
        found += [{**group, "params": rest}] if rest else []
        found += [{**group, "name": f"{group['name']}, {ratio:g} times", "params": own, "lr": ratio * group["lr"]}] if own else []
    return found
