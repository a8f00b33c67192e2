"""AdaLoRA: like LoRA, but each matrix has as many directions as the training finds worth having."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.adapters import adapters
from luthier.adapters.injection.injected import Injected, require_targets
from luthier.core.errors import ConfigError, Fault
from luthier.core.units import Duration

if TYPE_CHECKING:
    from torch import nn

    from luthier.adapters.injection.follower import Follower
    from luthier.optim.schedules.schedule import Horizon


@adapters.add
class Adalora(Injected):
    """Adaptive low-rank adaptation, on the PEFT library: products in the form of singular values, of which the least worth are dropped.

    Args:
        r: Mean rank at the end.
        start_r: Rank at the start.
        alpha: The product is multiplied by alpha / start_r.
        dropout: Dropout before the product.
        target_modules: Which matrices.
        warmup: How long no direction is dropped.
        final: How long, at the end, those that are left stay.
        every: Steps between two choices.
        orthogonality: How much the directions are kept at right angles.

    Reference: Q. Zhang and others, https://arxiv.org/abs/2303.10512; https://github.com/huggingface/peft
    """

    follows_steps: ClassVar[bool] = True

    r: int = Field(8, ge=1, description="Mean rank of the products at the end.")
    start_r: int = Field(12, ge=2, description="Rank of every product at the start; more than r.")
    alpha: float = Field(32, gt=0, description="The products are multiplied by alpha / start_r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the products.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="Matrices that get a product, by the ends of their names; all-linear: every one."
    )
    warmup: Duration = Field(Duration(10, "%"), description="How long no direction is dropped, such as '10%' or '100 steps'.")
    final: Duration = Field(Duration(30, "%"), description="How long, at the end, the directions that are left stay the same.")
    every: int = Field(1, ge=1, description="Steps between two choices of the directions that stay.")
    orthogonality: float = Field(
        0.5, ge=0, description="Coefficient of the term of the loss that keeps directions at right angles and of length 1."
    )

    @field_validator("warmup", "final")
    @classmethod
    def _known_length(cls, value: Duration) -> Duration:
        if value.unit in ("samples", "tokens"):
            raise ValueError(f"got {str(value)!r}: adalora counts in epochs, steps or %")
        return value

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Injected.peft_config`. The steps of the run are put in by `follower`."""
        from peft import AdaLoraConfig

        if self.r >= self.start_r:
            what = f"the ranks go down from start_r {self.start_r} to a mean of r {self.r}, which is not less"
            raise ConfigError([Fault("adapter.start_r", what, f"adapter.start_r={self.r + max(1, self.r // 2)}")])
        if self.target_modules != "all-linear":
            require_targets(host, self.target_modules)
        return AdaLoraConfig(
            init_r=self.start_r,
            target_r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=self.target_modules if self.target_modules == "all-linear" else list(self.target_modules),
            exclude_modules=shared["modules_to_save"],
            deltaT=self.every,
            orth_reg_weight=self.orthogonality,
            total_step=1,
            **shared,
        )

    def follower(self, module: nn.Module, horizon: Horizon) -> Follower:
        """Return what drops directions after every step; see `Adapter.follower`.

        Raises:
            ConfigError: if the run is too short to drop any.
        """
        from luthier.adapters.injection.of_peft import host_of
        from luthier.adapters.injection.ranks import Ranks

        total, warmup, final = horizon.total_steps, horizon.steps(self.warmup), horizon.steps(self.final)
        if warmup >= total - final:
            what = f"of {total} steps {warmup} are warm-up and {final} the end, which leaves none in which directions are dropped"
            raise ConfigError([Fault("adapter.warmup", what, "adapter.warmup=10%, adapter.final=30%, and train longer")])
        return Ranks(host_of(module)[0], total=total, warmup=warmup, final=final)

    @property
    def base_may_be_quantized(self) -> bool:
        """Whether the frozen weights may be held in 4 or 8 bits; see `Adapter.base_may_be_quantized`."""
        return True

    @classmethod
    def example(cls) -> Adalora:
        """Return settings that the contract tests run on."""
        return cls(r=3, start_r=5, alpha=8)
