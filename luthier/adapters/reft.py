"""ReFT: no weight is touched; what the blocks give is changed within a few directions, at a few positions of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.own import Own
from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import nn


@adapters.add
class Reft(Own):
    """Low-rank changes of the states between blocks (LoReFT), the same ones at all positions that are changed.

    Args:
        r: Directions that are changed.
        layers: After which blocks; of an encoder-decoder after which levels of both halves.
        first: So many positions at the beginning of each row.
        last: So many at its end.

    Reference: Z. Wu and others, https://arxiv.org/abs/2404.03592
    """

    r: int = Field(4, ge=1, description="Directions in which the states are changed.")
    layers: Literal["all"] | tuple[int, ...] = Field(
        "all", description="After which blocks the states are changed, by numbers from 0, such as [2, 5]; all: after every one."
    )
    first: Literal["all"] | int = Field(7, description="How many positions at the beginning of each row are changed; all: every one.")
    last: int = Field(0, ge=0, description="How many positions at the end of each row are changed; not for a decoder that writes.")

    def put_into(self, host: Any) -> dict[str, nn.Module]:
        """Have what the blocks give changed; see `Own.put_into`."""
        from luthier.adapters.injection.edits import Edit, Positions
        from luthier.models.blocks import levels_of, sides_of, stacks_of

        width, levels = host.config.get_text_config().hidden_size, levels_of(host, "adapter.type")
        numbers = self._numbers(len(levels))
        self._refuse_what_does_not_fit(host, width, numbers, len(levels))
        chosen = {id(block) for number in numbers for block in levels[number]}
        names = {id(module): name for name, module in host.named_modules()}
        parts: dict[str, nn.Module] = {}
        for stack, body in zip(stacks_of(host), sides_of(host) or (host.base_model,), strict=True):
            positions = None if self.first == "all" else Positions(body, self.first, self.last)
            for block in stack:
                if id(block) in chosen:
                    edit = Edit(width, self.r, positions)
                    block.add_module("reft", edit)
                    block.register_forward_hook(edit.after)
                    parts[f"{names[id(block)]}.reft"] = edit
        return parts

    def regrouped(self, groups: list[dict[str, Any]], named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Return groups without decay: nothing is changed where W is R, not where it is 0; see `Adapter.regrouped`."""
        own = {id(p) for name, p in named if ".reft." in name}
        return [{**group, "weight_decay": 0.0} if all(id(p) in own for p in group["params"]) else group for group in groups]

    @classmethod
    def example(cls) -> Reft:
        """Return settings that the contract tests run on."""
        return cls(r=2, first=3)

    def _numbers(self, num_blocks: int) -> list[int]:
        """Return the numbers of the blocks; those that a plan's outline lacks stand for its last."""
        from luthier.models.outline import outlining

        named = range(num_blocks) if self.layers == "all" else self.layers
        return sorted({min(number, num_blocks - 1) if outlining() else number for number in named})

    def _refuse_what_does_not_fit(self, host: Any, width: int, numbers: list[int], num_blocks: int) -> None:
        faults = []
        if self.first != "all" and self.first + self.last < 1:
            faults.append(Fault("adapter.first", "no position would be changed", "adapter.first=7"))
        if self.r > width:
            faults.append(Fault("adapter.r", f"got {self.r}, and the states of the model have {width} numbers", "name less"))
        if not numbers or numbers[0] < 0 or numbers[-1] >= num_blocks:
            what = f"got {numbers}, and the blocks of the model are 0 to {num_blocks - 1}"
            faults.append(Fault("adapter.layers", what, "adapter.layers=all"))
        if self.last and (type(host).__name__.endswith("ForCausalLM") or hasattr(host, "lm_head")):
            what = "while a decoder learns whole rows it is not told where the prompt ends"
            faults.append(Fault("adapter.last", what, "adapter.last=0, with more adapter.first"))
        if faults:
            raise ConfigError(faults)
