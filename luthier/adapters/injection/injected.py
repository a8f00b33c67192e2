"""What adapters on layers have in common: the PEFT library puts them in, writes, reads and merges them."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.adapters.adapter import Adapter
from luthier.adapters.injection import starts
from luthier.adapters.injection.probe import require_saved, unchanged
from luthier.adapters.injection.staying import staying
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

if TYPE_CHECKING:
    from torch import nn

NAME = "default"
WEIGHTS = "adapter_model.safetensors"
WRAPPED = "peft_model"
UNFIT = (ValueError, TypeError, NotImplementedError, AttributeError, KeyError)


class Injected(Adapter, ABC):
    """An adapter that replaces layers of the model by layers of the PEFT library.

    Reference: https://github.com/huggingface/peft
    """

    is_probed: ClassVar[bool] = False
    """Whether it is tried out, when it is attached, that a fresh adapter changes no output."""

    @abstractmethod
    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration of the PEFT library.

        Args:
            host: The model of transformers.
            shared: Keys that every method has: the kind of task, and the heads that are trained whole.
        """

    def attach(self, module: nn.Module, new: frozenset[str]) -> frozenset[str]:
        """Freeze the module and put the layers into it; see `Adapter.attach`."""
        host, prefix = host_of(module)
        heads = heads_of(host, {name.removeprefix(prefix) for name in new})
        config = self.peft_config(host, {"modules_to_save": heads or None, "task_type": "SEQ_CLS" if heads else "CAUSAL_LM"})
        with unchanged(host, lambda: self.switched_off(module), wanted=self.is_probed):
            _inject(host, config)
        if self.is_probed:
            require_saved(host, state_of(host))
        layers = layers_of(host)
        for layer in layers:
            layer.cast_input_dtype_enabled = False  # the arithmetic is the training's: autocast, or float32 throughout
        starts.remember(layers, config, NAME)
        return frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad and "modules_to_save" in name)

    def save(self, module: nn.Module, folder: Path, *, base: str) -> None:
        """Write adapter_config.json and adapter_model.safetensors; see `Adapter.save`."""
        from safetensors.torch import save_file

        host, _ = host_of(module)
        config: Any = copy.copy(host.peft_config[NAME])
        state = state_of(host)
        if starts.are_remembered(layers_of(host)):
            state, config = starts.as_differences(state, host, config, NAME)
        config.base_model_name_or_path, config.inference_mode = base, True
        config.save_pretrained(folder)
        save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, folder / WEIGHTS)

    def load(self, module: nn.Module, folder: Path) -> None:
        """Put saved weights and heads into the module."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        host, _ = host_of(module)
        state = load_file(folder / WEIGHTS)
        wanted = state_of(host)
        assert wanted.keys() == state.keys(), wanted.keys() ^ state.keys()
        found: Any = set_peft_model_state_dict(host.__dict__[WRAPPED], state, adapter_name=NAME)
        assert not found.unexpected_keys, found.unexpected_keys

    def merge(self, module: nn.Module) -> None:
        """Put the layers into the weights of the base; see `Adapter.merge`."""
        from peft.utils.other import ModulesToSaveWrapper

        host, _ = host_of(module)
        method = host.peft_config[NAME].peft_type.value
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                host.__dict__[WRAPPED].merge_and_unload(safe_merge=True)
        except (NotImplementedError, AttributeError) as error:
            what = f"{method} is no change of weights that could be written into the base"
            raise ConfigError([Fault("adapter.type", what, "serve the run as it is")]) from error
        for name, inner in list(host.named_modules()):
            if isinstance(inner, ModulesToSaveWrapper):  # some methods leave the heads wrapped
                host.set_submodule(name, inner.modules_to_save[NAME])
        del host.__dict__[WRAPPED]

    @contextmanager
    def switched_off(self, module: nn.Module) -> Iterator[None]:
        """Within the context the layers are left out."""
        layers = layers_of(host_of(module)[0])
        if starts.are_remembered(layers):
            with starts.put_back(layers, NAME):
                yield
            return
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)


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


def require_targets(host: Any, targets: tuple[str, ...], *, key: str = "adapter.target_modules") -> None:
    """Refuse ends of names that no layer of the model has.

    Raises:
        ConfigError: with the nearest names that there are.
    """
    names = [name for name, inner in host.named_modules() if name and not list(inner.children())]
    ends = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    missing = [target for target in targets if not any(name == target or name.endswith(f".{target}") for name in names)]
    if missing:
        raise ConfigError([Fault(key, f"nothing in the model is called '{name}'", did_you_mean(name, ends)) for name in missing])


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


def _inject(host: Any, config: Any) -> None:
    from peft import PeftModel

    try:
        with warnings.catch_warnings(), staying(host):
            warnings.simplefilter("ignore")  # of fan_in_fan_out, which peft sets by itself
            wrapped = PeftModel(host, config, adapter_name=NAME)
    except UNFIT as error:
        what = f"{config.peft_type.value} does not fit a {host.config.model_type}: {str(error).splitlines()[0]}"
        raise ConfigError([Fault("adapter", what, "name other adapter.target_modules, or use adapter.type=lora")]) from error
    host.__dict__[WRAPPED] = wrapped  # not a module of the host, which it holds itself
