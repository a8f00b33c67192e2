"""LoRA: beside each frozen matrix a product of two thin ones is trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.adapter import Adapter
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

if TYPE_CHECKING:
    from torch import nn

NAME = "default"
WEIGHTS = "adapter_model.safetensors"


@adapters.add
class Lora(Adapter):
    """Low-rank adaptation, on the PEFT library.

    Args:
        r: Rank of the products.
        alpha: The product is multiplied by alpha / r.
        dropout: Dropout before the product.
        target_modules: Which matrices.

    Reference: E. Hu and others, LoRA, https://arxiv.org/abs/2106.09685; https://github.com/huggingface/peft
    """

    r: int = Field(16, ge=1, description="Rank of the trained products.")
    alpha: float = Field(32, gt=0, description="The products are multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the products.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="Matrices that get a product, by the ends of their names, such as [q_proj, v_proj]; all-linear: every one.",
    )

    def attach(self, module: nn.Module, new: frozenset[str]) -> frozenset[str]:
        """Freeze the module and put the products into it; see `Adapter.attach`."""
        from peft import LoraConfig, inject_adapter_in_model

        host, prefix = _host(module)
        self._require_targets(host)
        heads = sorted({name.removeprefix(prefix).rpartition(".")[0] for name in new})
        named = self.target_modules if self.target_modules == "all-linear" else list(self.target_modules)
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=named,
            exclude_modules=heads or None,
            modules_to_save=heads or None,
            task_type="SEQ_CLS" if heads else "CAUSAL_LM",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fan_in_fan_out, which peft sets by itself
            inject_adapter_in_model(config, host, adapter_name=NAME)
        for layer in _layers(host):
            layer.cast_input_dtype_enabled = False  # the arithmetic is the training's: autocast, or float32 throughout
        return frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad and "modules_to_save" in name)

    def save(self, module: nn.Module, folder: Path, *, base: str) -> None:
        """Write adapter_config.json and adapter_model.safetensors; see `Adapter.save`."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        host, _ = _host(module)
        config: Any = host.peft_config[NAME]
        config.base_model_name_or_path, config.inference_mode = base, True
        config.save_pretrained(folder)
        state = get_peft_model_state_dict(host, adapter_name=NAME, save_embedding_layers=False)
        save_file({f"base_model.model.{name}": tensor.detach().contiguous() for name, tensor in state.items()}, folder / WEIGHTS)

    def load(self, module: nn.Module, folder: Path) -> None:
        """Put saved products and heads into the module."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        host, _ = _host(module)
        state = {name.removeprefix("base_model.model."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
        found: Any = set_peft_model_state_dict(host, state, adapter_name=NAME)
        assert not found.unexpected_keys, found.unexpected_keys

    @contextmanager
    def switched_off(self, module: nn.Module) -> Iterator[None]:
        """Within the context the products are left out."""
        layers = _layers(_host(module)[0])
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def _require_targets(self, host: Any) -> None:
        if self.target_modules == "all-linear":
            return
        names = [name for name, inner in host.named_modules() if name and not list(inner.children())]
        ends = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
        missing = [target for target in self.target_modules if not any(name == target or name.endswith(f".{target}") for name in names)]
        if missing:
            raise ConfigError(
                [Fault("adapter.target_modules", f"nothing in the model is called '{name}'", did_you_mean(name, ends)) for name in missing]
            )


def _host(module: Any) -> tuple[Any, str]:
    """Return the model of transformers that a module is or holds, and what its parameters' names begin with there."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        return module, ""
    return next((child, f"{name}.") for name, child in module.named_children() if isinstance(child, PreTrainedModel))


def _layers(host: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in host.modules() if isinstance(layer, BaseTunerLayer)]
