"""Trained keys and values before those of the rows, in every layer of a model: they are handed to its body as a cache that is filled.

B rows, T tokens of a row, P keys of the prefix.
"""

from __future__ import annotations

from typing import Any

from luthier.adapters.injection.leading import Leading, lengthen_mask, require_room

TAKES = "past_key_values"


class KeptStates(Leading):
    """Keys and values before those of the rows."""

    def led(self, body: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Return a cache that begins with the trained keys and values, mask and positions to match; see `Leading.led`."""
        import torch

        ids_BT, cache, num = given["input_ids"], given.get(TAKES), self.wrapped.active_peft_config.num_virtual_tokens
        written = 0 if cache is None else cache.get_seq_length()
        require_room(self._most, num, max(written - num, 0) + ids_BT.shape[1], "keys before each row")
        if written == 0:
            with torch.autocast(ids_BT.device.type, enabled=False):  # as they are saved
                given[TAKES] = _filled(cache, self.wrapped.get_prompt(len(ids_BT)))
        lengthen_mask(given, num)
        if given.get("position_ids") is not None:
            given["position_ids"] = given["position_ids"] + num
        return given

    def follow(self, given: dict[str, Any], states: Any) -> None:
        """Leave the cache out of what the body gives where none was asked for, lest the next step goes on from it."""
        if given.get("use_cache") is False and getattr(states, TAKES, None) is not None:
            states.past_key_values = None


def _filled(cache: Any, prompt: Any) -> Any:
    """Return the cache that a text is about to be written with, begun with that of the prefix; or the latter where there is none."""
    if cache is None:
        return prompt
    for number, layer in enumerate(prompt.layers):
        cache.update(layer.keys, layer.values, number)
    return cache
