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
        host.base_model.register_forward_hook(self.after, with_kwargs=True)

    def before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]] | None:
        """Return what the body is called with: a cache that begins with the trained keys and values, mask and positions to match."""
        import torch

        if not self.on:
            return None
        given = dict(zip(self._names, args, strict=False)) | kwargs
        ids_BT, cache, num = given["input_ids"], given.get(TAKES), self.wrapped.active_peft_config.num_virtual_tokens
        written = 0 if cache is None else cache.get_seq_length()
        require_room(self._most, num, max(written - num, 0) + ids_BT.shape[1], "keys before each row")
        if written == 0:
            with torch.autocast(ids_BT.device.type, enabled=False):  # as they are saved
                given[TAKES] = _filled(cache, self.wrapped.get_prompt(len(ids_BT)))
        mask, places_BT = given.get("attention_mask"), given.get("position_ids")
        if mask is not None:
            given["attention_mask"] = torch.cat([mask.new_ones(len(mask), num), mask], dim=1)
        if places_BT is not None:
            given["position_ids"] = places_BT + num
        return (), given

    def after(self, _: Any, __: tuple[Any, ...], kwargs: dict[str, Any], states: Any) -> None:
        """Leave the cache out of what the body gives where none was asked for, lest the next step goes on from it."""
        if self.on and kwargs.get("use_cache") is False and getattr(states, TAKES, None) is not None:
            states.past_key_values = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the context the rows stand alone."""
        self.on = False
        try:
            yield
        finally:
            self.on = True


def _filled(cache: Any, prompt: Any) -> Any:
    """Return the cache that a text is about to be written with, begun with that of the prefix; or the latter where there is none."""
    if cache is None:
        return prompt
    for number, layer in enumerate(prompt.layers):
        cache.update(layer.keys, layer.values, number)
    return cache
