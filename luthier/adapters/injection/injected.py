"""What adapters on layers have in common: the PEFT library puts them in, writes, reads and merges them."""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.adapters.injection import cut_ranks, starts
from luthier.adapters.injection.of_peft import NAME, WEIGHTS, WRAPPED, OfPeft, heads_of, host_of, layers_of, state_of
from luthier.adapters.injection.probe import require_saved, unchanged
from luthier.adapters.injection.staying import staying
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

if TYPE_CHECKING:
    from torch import nn

UNFIT = (ValueError, TypeError, NotImplementedError, AttributeError, KeyError)


class Injected(OfPeft, ABC):
    """An adapter that replaces layers of the model by layers of the PEFT library.

    Reference: https://github.com/huggingface/peft
    """

    is_probed: ClassVar[bool] = False
    """Whether it is tried out, when it is attached, that a fresh adapter changes no output."""

    def attach(self, module: nn.Module, new: frozenset[str]) -> frozenset[str]:
        """Freeze the module and put the layers into it; see `Adapter.attach`."""
        host, prefix = host_of(module)
        heads = heads_of(host, {name.removeprefix(prefix) for name in new})
        config = self.peft_config(host, {"modules_to_save": heads or None, "task_type": _task_type(host, heads)})
        with unchanged(host, lambda: self.switched_off(module), wanted=self.is_probed):
            _inject(host, config)
        if self.is_probed:
            require_saved(host, state_of(host))
        layers = layers_of(host)
        for layer in layers:
            layer.cast_input_dtype_enabled = False  # the arithmetic is the training's: autocast, or float32 throughout
        starts.remember(layers, config, NAME)
        return frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad and "modules_to_save" in name)

    def written(self, host: Any, state: dict[str, Any], config: Any) -> tuple[dict[str, Any], Any]:
        """Return them as differences from the base as it was, where the method began by changing it, and without what it dropped."""
        if starts.are_remembered(layers_of(host)):
            return starts.as_differences(state, host, config, NAME)
        return cut_ranks.cut(state, config) if cut_ranks.can_be_cut(config) else (state, config)

    def load(self, module: nn.Module, folder: Path) -> None:
        """Put saved weights and heads into the module."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        host, _ = host_of(module)
        state = load_file(folder / WEIGHTS)
        wanted = state_of(host)
        assert wanted.keys() == state.keys(), wanted.keys() ^ state.keys()
        cut_ranks.take_pattern(host.__dict__[WRAPPED].peft_config[NAME], folder)
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


def _task_type(host: Any, heads: list[str]) -> str:
    """Return what plain peft calls the kind of model that the adapter is in."""
    if heads:
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if getattr(host.config, "is_encoder_decoder", False) else "CAUSAL_LM"
