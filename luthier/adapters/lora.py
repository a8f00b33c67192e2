"""LoRA: beside each frozen matrix a product of two thin ones is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.injected import Injected, require_targets
from luthier.adapters.injection.starts import FROM_BASE
from luthier.core.errors import ConfigError, Fault
from luthier.optim.ratios import at_ratio

if TYPE_CHECKING:
    from torch import nn

Start = Literal["default", "gaussian", "pissa", "olora"]


@adapters.add
class Lora(Injected):
    """Low-rank adaptation, on the PEFT library.

    Args:
        r: Rank of the products.
        alpha: The product is multiplied by alpha / r.
        dropout: Dropout before the product.
        target_modules: Which matrices.
        rslora: Multiply by alpha / sqrt(r) instead.
        dora: Train the length of each row of the sum apart from its direction.
        start: How the products begin.
        plus_ratio: By how much the second factors learn faster than the first.

    Reference: E. Hu and others, LoRA, https://arxiv.org/abs/2106.09685; rsLoRA https://arxiv.org/abs/2312.03732;
        DoRA https://arxiv.org/abs/2402.09353; PiSSA https://arxiv.org/abs/2404.02948; OLoRA https://arxiv.org/abs/2406.01775;
        LoRA+ https://arxiv.org/abs/2402.12354; https://github.com/huggingface/peft
    """

    r: int = Field(16, ge=1, description="Rank of the trained products.")
    alpha: float = Field(32, gt=0, description="The products are multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the products.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="Matrices that get a product, by the ends of their names, such as [q_proj, v_proj]; all-linear: every one.",
    )
    rslora: bool = Field(False, description="Multiply the products by alpha / sqrt(r), so that a high rank learns as fast as a low one.")
    dora: bool = Field(False, description="Train the length of each row of a matrix apart from its direction (DoRA).")
    start: Start = Field(
        "default",
        description="The products start at nothing (default, gaussian), or with a part of the base: its largest directions (pissa), or "
        "the first of its QR (olora); saved as a plain LoRA of twice the rank.",
    )
    plus_ratio: float = Field(1.0, gt=0, description="Learning rate of the second factors, times that of the first (LoRA+); 16 is usual.")

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Injected.peft_config`."""
        from peft import LoraConfig

        if self.target_modules != "all-linear":
            require_targets(host, self.target_modules)
        if self.start in FROM_BASE:
            self._refuse_what_does_not_start_there(host, shared["modules_to_save"] or [])
        named = self.target_modules if self.target_modules == "all-linear" else list(self.target_modules)
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=named,
            exclude_modules=shared["modules_to_save"],
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=True if self.start == "default" else self.start,
            **shared,
        )

    def as_saved(self) -> Lora:
        """Return the settings of the plain LoRA that is saved: of twice the rank where a part of the base was taken out."""
        if self.start not in FROM_BASE:
            return self
        grown = 2**0.5 if self.rslora else 2
        return self.model_copy(update={"r": 2 * self.r, "alpha": grown * self.alpha, "start": "default"})

    @property
    def base_may_be_halved(self) -> bool:
        """Whether the frozen weights are those of the base; see `Adapter.base_may_be_halved`."""
        return self.start not in FROM_BASE

    def regrouped(self, groups: list[dict[str, Any]], named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Return groups in which the second factors have the rate of LoRA+; see `Adapter.regrouped`."""
        return groups if self.plus_ratio == 1 else at_ratio(groups, [p for name, p in named if ".lora_B." in name], self.plus_ratio)

    @property
    def base_may_be_quantized(self) -> bool:
        """Whether the frozen weights may be held in 4 or 8 bits; see `Adapter.base_may_be_quantized`."""
        return self.start not in FROM_BASE

    @classmethod
    def example(cls) -> Lora:
        """Return settings that the contract tests run on."""
        return cls(r=4, alpha=8)

    def _refuse_what_does_not_start_there(self, host: Any, heads: list[str]) -> None:
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        if self.dora:
            what = f"start {self.start} takes a part of the base out, and the lengths of DoRA are those of the whole base"
            raise ConfigError([Fault("adapter.start", what, "adapter.start=default, or adapter.dora=false")])
        matrices = {
            name: layer
            for name, layer in host.named_modules()
            if isinstance(layer, nn.Linear | Conv1D) and name not in heads and layer is not host.get_output_embeddings()
        }
        if self.target_modules != "all-linear":
            matrices = {name: layer for name, layer in matrices.items() if name.endswith(self.target_modules)}
        if self.start == "olora" and any(isinstance(layer, Conv1D) for layer in matrices.values()):
            what = f"the matrices of a {host.config.model_type} lie on their side, which peft's start olora does not know"
            raise ConfigError([Fault("adapter.start", what, "adapter.start=pissa")])
        smallest = min((min(layer.weight.shape) for layer in matrices.values()), default=self.r)
        if self.r > smallest:
            what = f"start {self.start} finds {smallest} directions in the smallest matrix, and r is {self.r}"
            raise ConfigError([Fault("adapter.r", what, f"adapter.r={smallest}, or adapter.start=default")])
