"""What goes before the rows of every call of a model's body: hooked to it, and switched off where the rows stand alone.

B rows, T tokens of a row.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luthier.core.errors import ConfigError, Fault


class Leading(ABC):
    """Hooks before and after the body of a model.

    Args:
        host: The model of transformers.
        wrapped: The model of the PEFT library that makes what goes before the rows.
        body: What reads the rows.
    """

    def __init__(self, host: Any, wrapped: Any, body: Any) -> None:
        self.wrapped, self.on = wrapped, True
        self._names = list(inspect.signature(body.forward).parameters)
        self._most = places_of(host)
        body.register_forward_pre_hook(self._before, with_kwargs=True)
        body.register_forward_hook(self._after, with_kwargs=True)

    @abstractmethod
    def led(self, body: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Return what the body is called with.

        Args:
            body: The body.
            given: What it was called with, by name.
        """

    @abstractmethod
    def follow(self, given: dict[str, Any], states: Any) -> None:
        """Change what the body gave, in place.

        Args:
            given: What it was called with.
            states: What it gave.
        """

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the context the rows stand alone."""
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def _before(self, body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]] | None:
        return ((), self.led(body, dict(zip(self._names, args, strict=False)) | kwargs)) if self.on else None

    def _after(self, _: Any, __: tuple[Any, ...], kwargs: dict[str, Any], states: Any) -> None:
        if self.on:
            self.follow(kwargs, states)


def lengthen_mask(given: dict[str, Any], num: int, name: str = "attention_mask") -> None:
    """Have a mask, where there is one, see so many tokens more before each row.

    Args:
        given: What the body is called with; changed in place.
        num: How many go before each row.
        name: Name of the mask.
    """
    import torch

    mask_BT = given.get(name)
    if mask_BT is not None:
        given[name] = torch.cat([mask_BT.new_ones(len(mask_BT), num), mask_BT], dim=1)


def require_room(most: int | None, num: int, length: int, what: str) -> None:
    """Refuse a row that is too long behind what goes before it.

    Args:
        most: Places of the model, or None where positions are computed.
        num: How many go before each row.
        length: Tokens of the row.
        what: What they are called.

    Raises:
        ConfigError: with the longest row that there is room for.
    """
    if most is not None and num + length > most:
        said = f"{num} {what} and a row of {length} are more than the {most} places of the model"
        raise ConfigError([Fault("data.max_length", said, f"data.max_length={most - num}")])


def places_of(host: Any) -> int | None:
    """Return how many places a model with a table of positions has, or None where positions are computed."""
    from torch import nn

    named = ("position_embeddings", "wpe", "embed_positions")
    tables: list[Any] = [m for name, m in host.named_modules() if isinstance(m, nn.Embedding) and name.endswith(named)]
    unused = (getattr(m, "offset", 0) if m.padding_idx is None else m.padding_idx + 1 for m in tables)
    return min((m.num_embeddings - rows for m, rows in zip(tables, unused, strict=True)), default=None)
