"""Virtual tokens before the rows of any call of a model's body; where states of the rows' own tokens are read, theirs are taken off again.

B rows, T tokens of a row, P virtual tokens, H width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.adapters.injection.leading import Leading, lengthen_mask, require_room

if TYPE_CHECKING:
    from torch import Tensor

READ_MASK = "encoder_attention_mask"


class VirtualTokens(Leading):
    """Embeddings before those of the rows.

    Args:
        host: The model of transformers.
        wrapped: The model of the PEFT library that makes the virtual tokens.
        by_token: Whether states of the rows' tokens are read, so that those of the virtual tokens are taken off.
        apart: Whether an encoder reads the rows, and a decoder writes.
    """

    def __init__(self, host: Any, wrapped: Any, *, by_token: bool, apart: bool = False) -> None:
        super().__init__(host, wrapped, host.get_encoder() if apart else host.base_model)
        if apart:
            host.get_decoder().register_forward_pre_hook(self._see, with_kwargs=True)
        self.by_token = by_token

    def led(self, body: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Return embeddings that begin with the virtual tokens, mask and positions to match; see `Leading.led`."""
        import torch

        ids_BT = given.pop("input_ids")
        with torch.autocast(ids_BT.device.type, enabled=False):  # as they are saved
            prompt_BPH: Tensor = self.wrapped.get_prompt(len(ids_BT))
        rows_BTH = body.get_input_embeddings()(ids_BT)
        num = prompt_BPH.shape[1]
        require_room(self._most, num, ids_BT.shape[1], "virtual tokens")
        given["inputs_embeds"] = torch.cat([prompt_BPH.to(rows_BTH), rows_BTH], dim=1)
        lengthen_mask(given, num)
        if given.get("token_type_ids") is not None:
            kinds_BT = given["token_type_ids"]
            given["token_type_ids"] = torch.cat([kinds_BT.new_zeros(len(kinds_BT), num), kinds_BT], dim=1)
        if given.get("position_ids") is not None:
            places_BT = given["position_ids"]
            first_BP = torch.arange(num, device=places_BT.device).expand(len(places_BT), num)
            given["position_ids"] = torch.cat([first_BP, places_BT + num], dim=1)
        return given

    def follow(self, given: dict[str, Any], states: Any) -> None:
        """Take the states of the virtual tokens off, where their places would be taken for the rows'."""
        if self.by_token:
            states.last_hidden_state = states.last_hidden_state[:, self.wrapped.active_peft_config.num_virtual_tokens :]

    def _see(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Have a decoder attend to the virtual tokens as to the rows' own."""
        if self.on:
            lengthen_mask(kwargs, self.wrapped.active_peft_config.num_virtual_tokens, READ_MASK)
        return args, kwargs
