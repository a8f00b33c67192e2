"""What all adapters of the PEFT library have in common: how they are configured and written."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.adapters.adapter import Adapter
from luthier.adapters.injection.taken_up import KEY, Saved, differences
from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import nn

NAME = "default"
WEIGHTS = "adapter_model.safetensors"
WRAPPED = "peft_model"
VIRTUAL = "prompt_embeddings"
PASSED_OVER = (
    *("base_model_name", "modules", "task_type", "inference_mode", "revision", "auto_mapping", "peft_version", "runtime_config"),
    *("dropout", "init", "_pattern", "layers_", "num_layers", "token_dim", "num_attention_heads", "tokenizer"),
)
"""Parts of the names of settings that say where weights go, which their names say too, or only how they begin and are trained."""


class OfPeft(Adapter, ABC):
    """An adapter that the PEFT library makes and reads.

    Reference: https://github.com/huggingface/peft
    """

    @abstractmethod
    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration of the PEFT library.

        Args:
            host: The model of transformers.
            shared: Keys that every method has: the kind of task, and the heads that are trained whole.
        """

    def save(self, module: nn.Module, folder: Path, *, base: str) -> None:
        """Write adapter_config.json and adapter_model.safetensors; see `Adapter.save`."""
        from safetensors.torch import save_file

        host, _ = host_of(module)
        state, config = self.written(host, state_of(host), copy.copy(host.__dict__[WRAPPED].peft_config[NAME]))
        config.base_model_name_or_path, config.inference_mode = base, True
        config.save_pretrained(folder)
        save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, folder / WEIGHTS)

    def take_up(self, module: nn.Module, saved: Saved) -> bool:
        """Put saved weights in the place of the fresh ones; see `Adapter.take_up`.

        A method whose file has another form than what is trained cannot go on: AdaLoRA, a network that makes virtual tokens, a start that
        takes a part of the base out.
        """
        from peft import set_peft_model_state_dict

        host, _ = host_of(module)
        wrapped = host.__dict__[WRAPPED]
        config = wrapped.peft_config[NAME]
        if self.follows_steps or self.as_saved() != self or getattr(config, "encoder_reparameterization_type", None) is not None:
            what = f"{self.registered_name} with these settings is saved in another form than it is trained in"
            raise ConfigError([Fault(KEY, what, "leave adapter.start_from out, or use adapter.type=lora with adapter.start=default")])
        if faults := list(differences(saved.config, config.to_dict(), PASSED_OVER)):
            raise ConfigError(faults, where=str(saved.folder))
        state, taken = saved.over(state_of(host), config.modules_to_save or [])
        found: Any = set_peft_model_state_dict(wrapped, state, adapter_name=NAME)
        assert set(found.unexpected_keys) <= {VIRTUAL}, found.unexpected_keys
        return taken

    def written(self, host: Any, state: dict[str, Any], config: Any) -> tuple[dict[str, Any], Any]:
        """Return weights and configuration as they are to be written.

        Args:
            host: The model of transformers.
            state: The weights as they are trained.
            config: The configuration as it is trained with, to be changed freely.
        """
        return state, config


def host_of(module: Any) -> tuple[Any, str]:
    """Return the model of transformers that a module is or holds, and what its parameters' names begin with there."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        return module, ""
    return next((child, f"{name}.") for name, child in module.named_children() if isinstance(child, PreTrainedModel))


def layers_of(host: Any) -> list[Any]:
    """Return the layers of the PEFT library in a model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in host.modules() if isinstance(layer, BaseTunerLayer)]


def state_of(host: Any) -> dict[str, Any]:
    """Return what is saved of a model's adapter: its weights and the heads, by their names in a file of the PEFT library."""
    from peft import get_peft_model_state_dict

    state: dict[str, Any] = get_peft_model_state_dict(host.__dict__[WRAPPED], adapter_name=NAME, save_embedding_layers=False)
    return state


def heads_of(host: Any, new: set[str]) -> list[str]:
    """Return the largest modules that are new as a whole, as plain peft looks for them: `classifier`, not its parts."""
    heads = set()
    for name in new:
        head = name.rpartition(".")[0]
        while parent := head.rpartition(".")[0]:
            if not all(f"{parent}.{inner}" in new for inner, _ in host.get_submodule(parent).named_parameters()):
                break
            head = parent
        heads.add(head)
    return sorted(heads)
