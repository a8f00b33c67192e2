"""Bottleneck adapters: a narrow network after the feed-forward layer of each block, and one after its attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.own import Own
from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import nn


@adapters.add
class Bottleneck(Own):
    """Narrow networks in the blocks, each added to what goes through it.

    Args:
        placement: After which parts of a block.
        reduction: How many times narrower than the states they are.
        bottleneck_size: How wide they are, in place of that.
        activation: Between their two layers.

    Reference: N. Houlsby and others, https://arxiv.org/abs/1902.00751; J. Pfeiffer and others, https://arxiv.org/abs/2005.00247
    """

    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby",
        description="After attention and after the feed-forward layer of each block (houlsby), or after the latter alone (pfeiffer).",
    )
    reduction: float = Field(16, ge=1, description="How many times narrower than the states of the model the bottlenecks are.")
    bottleneck_size: int | None = Field(None, ge=1, description="How wide the bottlenecks are; none: as adapter.reduction says.")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("gelu", description="Activation between the two layers of a bottleneck.")

    def put_into(self, host: Any) -> dict[str, nn.Module]:
        """Put a narrow network after each of the places; see `Own.put_into`."""
        from luthier.adapters.injection.beside import Beside, Narrow
        from luthier.models.sublayers import ends_of

        parts: dict[str, nn.Module] = {}
        width = host.config.get_text_config().hidden_size
        size = self.bottleneck_size or max(1, round(width / self.reduction))
        if size > width:
            what = f"got {size}, and the states of the model have {width} numbers"
            raise ConfigError([Fault("adapter.bottleneck_size", what, "name less, or use adapter.reduction")])
        for ends in ends_of(host, "adapter.type"):
            for place in (ends.attention, ends.feed_forward) if self.placement == "houlsby" else (ends.feed_forward,):
                network = Narrow(width, size, self.activation)
                host.set_submodule(place, Beside(host.get_submodule(place), network))
                parts[f"{place}.bottleneck"] = network
        return parts

    @classmethod
    def example(cls) -> Bottleneck:
        """Return settings that the contract tests run on."""
        return cls(reduction=4)
