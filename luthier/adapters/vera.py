"""VeRA: all matrices share one pair of random thin ones, and only the scales of their rows are trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.injected import Injected, require_targets


@adapters.add
class Vera(Injected):
    """Vector-based random matrix adaptation, on the PEFT library.

    Args:
        r: Rank of the shared products.
        dropout: Dropout before the products.
        target_modules: Which matrices.

    Reference: D. Kopiczko and others, https://arxiv.org/abs/2310.11454; https://github.com/huggingface/peft
    """

    r: int = Field(256, ge=1, description="Rank of the shared random products.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the products.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="Matrices that get scales, by the ends of their names; all-linear: every one."
    )

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Injected.peft_config`."""
        from peft import VeraConfig

        if self.target_modules != "all-linear":
            require_targets(host, self.target_modules)
        named = self.target_modules if self.target_modules == "all-linear" else list(self.target_modules)
        return VeraConfig(r=self.r, vera_dropout=self.dropout, target_modules=named, **shared)

    @property
    def base_may_be_quantized(self) -> bool:
        """Whether the frozen weights may be held in 4 or 8 bits; see `Adapter.base_may_be_quantized`."""
        return True

    @classmethod
    def example(cls) -> Vera:
        """Return settings that the contract tests run on."""
        return cls(r=8)
