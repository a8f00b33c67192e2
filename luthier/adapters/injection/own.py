"""What adapters of our own have in common: modules beside those of the model, hidden from none, written in a form of our own.

`adapter_config.json` says method, base, settings and places; `adapter_model.safetensors` has the weights by their names in the model, and
those of the heads that were trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.adapters.adapter import Adapter
from luthier.adapters.injection.of_peft import NAME, PASSED_OVER, WEIGHTS, heads_of, host_of
from luthier.adapters.injection.staying import staying
from luthier.adapters.injection.taken_up import Saved, differences
from luthier.core import files
from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import nn

HEAD = f".modules_to_save.{NAME}"
PARTS, HEADS = "adapter_parts", "adapter_heads"


class Own(Adapter, ABC):
    """An adapter whose modules are ours; plain peft knows nothing of it."""

    in_plain_peft: ClassVar[bool] = False

    @abstractmethod
    def put_into(self, host: Any) -> dict[str, nn.Module]:
        """Put trained modules into a frozen model.

        Args:
            host: The model of transformers.

        Returns:
            The modules by their names in the model; each does nothing while its `on` is False.
        """

    def attach(self, module: nn.Module, new: frozenset[str]) -> frozenset[str]:
        """Freeze the module, put the adapter's modules into it, and let the new heads train; see `Adapter.attach`."""
        from peft.utils.other import ModulesToSaveWrapper

        host, prefix = host_of(module)
        heads = heads_of(host, {name.removeprefix(prefix) for name in new})
        host.requires_grad_(False)
        host.__dict__[PARTS], host.__dict__[HEADS] = self.put_into(host), heads
        for head in heads:
            with staying(host):
                wrapped = ModulesToSaveWrapper(host.get_submodule(head), NAME)
            wrapped.set_adapter(NAME)
            host.set_submodule(head, wrapped)
        return frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad and HEAD in name)

    def save(self, module: nn.Module, folder: Path, *, base: str) -> None:
        """Write adapter_config.json and adapter_model.safetensors in our own form; see `Adapter.save`."""
        from safetensors.torch import save_file

        host, _ = host_of(module)
        facts = {
            "peft_type": self._kind,
            "base_model_name_or_path": base,
            "target_modules": sorted(host.__dict__[PARTS]),
            "modules_to_save": host.__dict__[HEADS] or None,
            "settings": self._settings,
        }
        files.write_json(folder / "adapter_config.json", facts)
        save_file({name: tensor.detach().contiguous() for name, tensor in _state(host).items()}, folder / WEIGHTS)

    def load(self, module: nn.Module, folder: Path) -> None:
        """Put saved weights and heads into the module."""
        import torch
        from safetensors.torch import load_file

        saved, wanted = load_file(folder / WEIGHTS), _state(host_of(module)[0])
        assert wanted.keys() == saved.keys(), wanted.keys() ^ saved.keys()
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(saved[name])

    def take_up(self, module: nn.Module, saved: Saved) -> bool:
        """Put saved weights in the place of the fresh ones; see `Adapter.take_up`."""
        import torch

        host, _ = host_of(module)
        kind = {"peft_type": self._kind}
        if faults := list(differences(saved.config, kind, ())) or list(differences(saved.config["settings"], self._settings, PASSED_OVER)):
            raise ConfigError(faults, where=str(saved.folder))
        own = _state(host)
        state, taken = saved.over(own, host.__dict__[HEADS])
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        return taken

    @property
    def _kind(self) -> str:
        return f"LUTHIER_{self.registered_name.upper()}"

    @property
    def _settings(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"start_from"})

    def merge(self, module: nn.Module) -> None:
        """Refuse: what the modules do is no change of weights."""
        what = f"{self.registered_name} is no change of weights that could be written into the base"
        raise ConfigError([Fault("adapter.type", what, "serve the run as it is")])

    @contextmanager
    def switched_off(self, module: nn.Module) -> Iterator[None]:
        """Within the context the modules do nothing."""
        parts = host_of(module)[0].__dict__[PARTS].values()
        for part in parts:
            part.on = False
        try:
            yield
        finally:
            for part in parts:
                part.on = True


def _state(host: Any) -> dict[str, Any]:
    """Return the weights of the adapter and of the heads that it trains, by the names in its file."""
    names = tuple(f"{name}." for name in host.__dict__[PARTS])
    return {name.replace(HEAD, ""): tensor for name, tensor in host.state_dict().items() if HEAD in name or name.startswith(names)}
