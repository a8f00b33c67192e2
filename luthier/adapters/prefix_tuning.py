"""Prefix tuning, as P-tuning v2 has it: trained keys and values before those of every row, in every layer."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.prompted import Prompted


@adapters.add
class PrefixTuning(Prompted):
    """Trained keys and values in every layer, on the PEFT library.

    Args:
        num_virtual_tokens: How many keys and values before each row.
        reparameterize: Whether a network makes them while training.
        hidden: Width of that network.

    Reference: X. Li and P. Liang, https://arxiv.org/abs/2101.00190; P-tuning v2, https://arxiv.org/abs/2110.07602;
        https://github.com/huggingface/peft
    """

    goes_before: ClassVar[str] = "states"
    fills_caches: ClassVar[bool] = True

    num_virtual_tokens: int = Field(20, ge=1, description="Keys and values before those of every row, in each layer.")
    reparameterize: bool = Field(
        False, description="While training, make them by a network of two layers, which is left behind when they are saved."
    )
    hidden: int = Field(512, ge=1, description="Width of that network.")

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Prompted.peft_config`."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            num_virtual_tokens=self.num_virtual_tokens, prefix_projection=self.reparameterize, encoder_hidden_size=self.hidden, **shared
        )

    def as_saved(self) -> PrefixTuning:
        """Return the settings without the network, which is not saved."""
        return self.model_copy(update={"reparameterize": False})

    @classmethod
    def example(cls) -> PrefixTuning:
        """Return settings that the contract tests run on."""
        return cls(num_virtual_tokens=5)
