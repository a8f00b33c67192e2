"""A saved adapter whose training goes on: what is in its folder, and what of it differs from the adapter in the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import files
from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import Tensor

KEY = "adapter.start_from"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHOWN, TYPE = 3, "peft_type"
OURS = {"lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
"""What settings of the PEFT library are called in a recipe, where that is another name."""


@dataclass(frozen=True)
class Saved:
    """A folder with an adapter.

    Args:
        folder: Where it is.
        takes_heads: Whether its heads answer what the new ones are to answer, so that they are taken too.
    """

    folder: Path
    takes_heads: bool

    @cached_property
    def config(self) -> dict[str, Any]:
        """What its `adapter_config.json` says."""
        found: dict[str, Any] = files.read_json(self.folder / CONFIG)
        return found

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Its weights, by their names in the file."""
        from safetensors.torch import load_file

        return load_file(self.folder / WEIGHTS)

    def over(self, own: Mapping[str, Tensor], heads: Iterable[str]) -> tuple[dict[str, Tensor], bool]:
        """Return the saved weights in the place of fresh ones, and whether the heads are among them; else they stay fresh.

        Args:
            own: The fresh weights, by their names in a file.
            heads: Names of the heads that are trained beside the adapter.

        Raises:
            ConfigError: if the file has other weights than the adapter in the model, or of other shapes.
        """
        known = {*heads, *(self.config.get("modules_to_save") or [])}
        of_heads = {name for name in own if _is_in(name, known)}
        wanted = own.keys() - of_heads
        there = {name for name in self.state if not _is_in(name, known)}
        if faults := [*_missing(there - wanted, wanted - there), *_unlike(self.state, own, wanted & there)]:
            raise ConfigError(faults, where=str(self.folder))
        fits = {name for name in of_heads if name in self.state and self.state[name].shape == own[name].shape}
        taken = self.takes_heads and bool(of_heads) and fits == of_heads
        names = wanted | (of_heads if taken else set())
        return {name: self.state[name] if name in names else tensor for name, tensor in own.items()}, taken


def differences(saved: Mapping[str, Any], own: Mapping[str, Any], passed_over: Iterable[str]) -> Iterator[Fault]:
    """Yield each setting of a saved adapter that is another one in the model.

    Args:
        saved: Settings of the saved one.
        own: Settings of the one in the model.
        passed_over: Parts of the names of settings that change nothing of what the weights do.
    """
    if (there := _plain(saved.get(TYPE))) != (here := _plain(own.get(TYPE))):
        yield Fault(KEY, f"the adapter there is {there}, and that of the recipe {here}", "name its type: see luthier adapters")
        return
    for name in sorted(saved.keys() & own.keys()):
        there, here = (_plain(settings[name]) for settings in (saved, own))
        if there != here and not any(part in name for part in passed_over):
            yield Fault(KEY, f"{name} is {there} there, and {here} in the recipe", f"adapter.{OURS.get(name, name)}={there}")


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    if isinstance(value, set | tuple):
        return sorted(value) if isinstance(value, set) else list(value)
    return value.value if hasattr(value, "value") else value


def _is_in(name: str, heads: Iterable[str]) -> bool:
    return any(f".{head}." in f".{name}" for head in heads)


def _missing(more: set[str], fewer: set[str]) -> Iterator[Fault]:
    fix = "set adapter.target_modules as it was, and use a task whose model has the same body"
    if more:
        yield Fault(KEY, f"it has weights that the adapter in this model has not: {_some(more)}", fix)
    if fewer:
        yield Fault(KEY, f"it lacks weights of the adapter in this model: {_some(fewer)}", fix)


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _unlike(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], names: set[str]) -> Iterator[Fault]:
    other = [name for name in sorted(names) if saved[name].shape != own[name].shape]
    if other:
        shapes = " and ".join(f"{tuple(state[other[0]].shape)} {where}" for state, where in ((saved, "there"), (own, "here")))
        yield Fault(KEY, f"{other[0]} is {shapes}", "use the model.path, and the sizes of the adapter, that it was trained with")
