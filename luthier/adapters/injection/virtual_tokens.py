"""Virtual tokens before the rows of any call of a model's body; to the left of a decoder's they are taken off its states again.

B rows, T tokens of a row, P virtual tokens, H width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import Tensor


class VirtualTokens:
    """What goes before the rows, hooked to the body of a model.

    Args:
        host: The model of transformers.
        wrapped: The model of the PEFT library that makes the virtual tokens.
        is_decoder: Whether the states of the virtual tokens are taken off.
    """

    def __init__(self, host: Any, wrapped: Any, *, is_decoder: bool) -> None:
        self.wrapped, self.is_decoder, self.on = wrapped, is_decoder, True
        self._names = list(inspect.signature(host.base_model.forward).parameters)
        self._most = places_of(host)
        host.base_model.register_forward_pre_hook(self.before, with_kwargs=True)
        host.base_model.register_forward_hook(self.after)

    def before(self, body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]] | None:
        """Return what the body is called with: embeddings that begin with the virtual tokens, mask and positions to match."""
        import torch

        if not self.on:
            return None
        given = dict(zip(self._names, args, strict=False)) | kwargs
        ids_BT = given.pop("input_ids")
        with torch.autocast(ids_BT.device.type, enabled=False):  # as they are saved
            prompt_BPH: Tensor = self.wrapped.get_prompt(len(ids_BT))
        rows_BTH = body.get_input_embeddings()(ids_BT)
        (num, length), mask = (prompt_BPH.shape[1], ids_BT.shape[1]), given.get("attention_mask")
        require_room(self._most, num, length, "virtual tokens")
        given["inputs_embeds"] = torch.cat([prompt_BPH.to(rows_BTH), rows_BTH], dim=1)
        if mask is not None:
            given["attention_mask"] = torch.cat([mask.new_ones(len(mask), num), mask], dim=1)
        if given.get("token_type_ids") is not None:
            kinds_BT = given["token_type_ids"]
            given["token_type_ids"] = torch.cat([kinds_BT.new_zeros(len(kinds_BT), num), kinds_BT], dim=1)
        if given.get("position_ids") is not None:
            places_BT = given["position_ids"]
            first_BP = torch.arange(num, device=places_BT.device).expand(len(places_BT), num)
            given["position_ids"] = torch.cat([first_BP, places_BT + num], dim=1)
        return (), given

    def after(self, body: Any, args: tuple[Any, ...], states: Any) -> None:
        """Take the states of the virtual tokens off, where their places would be taken for the rows'."""
        if self.on and self.is_decoder:
            states.last_hidden_state = states.last_hidden_state[:, self.wrapped.active_peft_config.num_virtual_tokens :]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the context no virtual tokens are put before the rows."""
        self.on = False
        try:
            yield
        finally:
            self.on = True


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

    tables = [m for name, m in host.named_modules() if isinstance(m, nn.Embedding) and name.endswith(("position_embeddings", "wpe"))]
    return min((m.num_embeddings - (0 if m.padding_idx is None else m.padding_idx + 1) for m in tables), default=None)
