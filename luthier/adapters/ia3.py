"""(IA)3: keys, values and the inner states of feed-forward layers are multiplied by trained vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.injected import Injected, require_targets

if TYPE_CHECKING:
    from torch import nn


@adapters.add
class Ia3(Injected):
    """Infused adapter by inhibiting and amplifying inner activations, on the PEFT library: a few thousand numbers.

    Args:
        target_modules: Layers whose outputs are multiplied.
        feedforward_modules: Those of them whose inputs are multiplied instead.

    Reference: H. Liu and others, https://arxiv.org/abs/2205.05638; https://github.com/huggingface/peft
    """

    target_modules: Literal["auto"] | tuple[str, ...] = Field(
        "auto",
        description="Layers whose outputs are multiplied, by the ends of their names; auto: those the PEFT library has for it.",
    )
    feedforward_modules: tuple[str, ...] = Field(
        (), description="Those of the named target_modules whose inputs are multiplied instead of their outputs."
    )

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Injected.peft_config`."""
        from peft import IA3Config

        if self.target_modules == "auto":
            return IA3Config(**shared)
        require_targets(host, self.target_modules)
        require_targets(host, self.feedforward_modules, key="adapter.feedforward_modules")
        return IA3Config(target_modules=list(self.target_modules), feedforward_modules=list(self.feedforward_modules), **shared)

    def regrouped(self, groups: list[dict[str, Any]], named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Return groups without decay: the vectors change nothing at 1, not at 0; see `Adapter.regrouped`."""
        own = {id(p) for name, p in named if ".ia3_l." in name}
        return [{**group, "weight_decay": 0.0} if all(id(p) in own for p in group["params"]) else group for group in groups]

    @property
    def base_may_be_quantized(self) -> bool:
        """Whether the frozen weights may be held in 4 or 8 bits; see `Adapter.base_may_be_quantized`."""
        return True

    @classmethod
    def example(cls) -> Ia3:
        """Return settings that the contract tests run on."""
        return cls()
