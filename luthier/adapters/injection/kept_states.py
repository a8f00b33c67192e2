"""Trained keys and values before those of the rows, in every layer of a model: they are handed to its body as a cache that is filled.

B rows, T tokens of a row, P keys of the prefix.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from luthier.adapters.injection.virtual_tokens import places_of, require_room

TAKES = "past_key_values"


class KeptStates:
    """What goes before the keys and values of the rows, hooked to the body of a model.

    Args:
        host: The model of transformers.
        wrapped: The model of the PEFT library that makes the keys and values.
    """

    def __init__(self, host: Any, wrapped: Any) -> None:
        self.wrapped, self.on = wrapped, True
        self._names = list(inspect.signature(host.base_model.forward).parameters)
        self._most = places_of(host)
        host.base_model.register_forward_pre_hook(self.before, with_kwargs=True)

    def before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]] | None:
        """Return what the body is called with: a cache of trained keys and values, mask and positions to match."""
        import torch

        if not self.on:
            return None
        given = dict(zip(self._names, args, strict=False)) | kwargs
        ids_BT, num = given["input_ids"], self.wrapped.active_peft_config.num_virtual_tokens
        require_room(self._most, num, ids_BT.shape[1], "keys before each row")
        with torch.autocast(ids_BT.device.type, enabled=False):  # as they are saved
            given[TAKES] = self.wrapped.get_prompt(len(ids_BT))
        mask, places_BT = given.get("attention_mask"), given.get("position_ids")
        if mask is not None:
            given["attention_mask"] = torch.cat([mask.new_ones(len(mask), num), mask], dim=1)
        if places_BT is not None:
            given["position_ids"] = places_BT + num
        return (), given

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the context the rows stand alone."""
        self.on = False
        try:
            yield
        finally:
            self.on = True
