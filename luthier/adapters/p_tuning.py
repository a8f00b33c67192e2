"""P-tuning: virtual tokens before every row come out of a small trained network, which is left behind when they are saved."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.prompted import Prompted


@adapters.add
class PTuning(Prompted):
    """Virtual tokens made by a network of three layers while training, on the PEFT library.

    Args:
        num_virtual_tokens: How many.
        hidden: Width of the network.

    Reference: X. Liu and others, https://arxiv.org/abs/2103.10385; https://github.com/huggingface/peft
    """

    num_virtual_tokens: int = Field(20, ge=1, description="Virtual tokens before every row.")
    hidden: int = Field(128, ge=1, description="Width of the network that makes them while training.")

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Prompted.peft_config`."""
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(num_virtual_tokens=self.num_virtual_tokens, encoder_hidden_size=self.hidden, **shared)

    @classmethod
    def example(cls) -> PTuning:
        """Return settings that the contract tests run on."""
        return cls(num_virtual_tokens=5, hidden=16)
