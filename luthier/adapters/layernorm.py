"""LayerNorm tuning: the scales and shifts of the norms are trained, nothing is added."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.injected import Injected, require_targets
from luthier.core.errors import ConfigError, Fault


@adapters.add
class Layernorm(Injected):
    """Tuning of the norms, on the PEFT library.

    Args:
        target_modules: Which norms.

    Reference: B. Zhao and others, https://arxiv.org/abs/2312.11420; https://github.com/huggingface/peft
    """

    target_modules: Literal["auto"] | tuple[str, ...] = Field(
        "auto", description="Norms that are trained, by the ends of their names; auto: every one."
    )

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Injected.peft_config`."""
        from peft import LNTuningConfig

        if self.target_modules != "auto":
            require_targets(host, self.target_modules)
            return LNTuningConfig(target_modules=list(self.target_modules), **shared)
        norms = [name for name, layer in host.named_modules() if "norm" in type(layer).__name__.lower() and hasattr(layer, "weight")]
        if not norms:
            what = f"a {host.config.model_type} has no norm with weights"
            raise ConfigError([Fault("adapter.type", what, "use adapter.type=lora")])
        return LNTuningConfig(target_modules=norms, **shared)

    @property
    def base_may_be_quantized(self) -> bool:
        """Whether the frozen weights may be held in 4 or 8 bits; see `Adapter.base_may_be_quantized`."""
        return True

    @classmethod
    def example(cls) -> Layernorm:
        """Return settings that the contract tests run on."""
        return cls()
