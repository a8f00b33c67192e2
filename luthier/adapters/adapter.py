"""What every adapter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from luthier.core import paths
from luthier.core.config import Registered
from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import nn

    from luthier.adapters.injection.follower import Follower
    from luthier.adapters.injection.taken_up import Saved
    from luthier.optim.schedules.schedule import Horizon


OWN = ".ranknum."  # a number that AdaLoRA keeps among the frozen ones


class Adapter(Registered, ABC):
    """Settings of an adapter (its fields), how it is put into a model, saved, loaded and merged."""

    wants_rows_apart: ClassVar[bool] = False
    """Whether something goes before every row, so that rows cannot be laid end to end."""
    in_plain_peft: ClassVar[bool] = True
    """Whether plain peft loads what is saved."""

    fills_caches: ClassVar[bool] = False
    """Whether it hands the layers keys and values from before, which computing activations again loses."""

    follows_steps: ClassVar[bool] = False
    """Whether it changes its own weights after every step of the optimiser."""

    start_from: str | None = Field(
        None,
        description="Go on with the weights of a trained adapter of the same type and settings, and with its head where it answers the "
        "same: a run, or a folder with an adapter; none: a fresh one.",
    )

    @field_validator("start_from")
    @classmethod
    def _whole_path(cls, written: str | None) -> str | None:
        return paths.expanded(written) if written is not None and ("$" in written or written.startswith("~")) else written

    @abstractmethod
    def attach(self, module: nn.Module, new: frozenset[str]) -> frozenset[str]:
        """Freeze a module, put the adapter into it, and leave what started from nothing (a head) trained.

        Args:
            module: A model of transformers, or a module that holds one.
            new: Names of its parameters that started from nothing.

        Returns:
            The names of those parameters as they are now.

        Raises:
            ConfigError: if there is nothing in the model that the settings fit.
        """

    @abstractmethod
    def save(self, module: nn.Module, folder: Path, *, base: str) -> None:
        """Write the adapter, and the head it left trained, as plain peft loads it where `in_plain_peft`.

        Args:
            module: The module it was attached to.
            folder: Where to.
            base: Folder or hub id of the model without the adapter.
        """

    @abstractmethod
    def load(self, module: nn.Module, folder: Path) -> None:
        """Put saved weights into a module that the adapter, as it was `as_saved`, is attached to."""

    def take_up(self, module: nn.Module, saved: Saved) -> bool:
        """Put the weights of a saved adapter into a module that this one was just attached to; returns whether it took the heads too.

        Args:
            module: The module.
            saved: The saved adapter.

        Raises:
            ConfigError: if the saved one is of another type, size or place, or the method cannot go on from what is saved of it.
        """
        what = f"{self.registered_name} cannot go on from what is saved of it"
        raise ConfigError([Fault("adapter.start_from", what, "leave adapter.start_from out")])

    @abstractmethod
    def merge(self, module: nn.Module) -> None:
        """Put the adapter into the weights of the base, and take its own layers out.

        Raises:
            ConfigError: if the method is no change of weights.
        """

    @abstractmethod
    def switched_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the module is the base model."""

    @classmethod
    @abstractmethod
    def example(cls) -> Adapter:
        """Return settings that the contract tests run on."""

    def as_saved(self) -> Adapter:
        """Return the settings that fit the saved weights; they are others where saving changes the form of them."""
        return self

    @property
    def base_may_be_halved(self) -> bool:
        """Whether the frozen weights may be held in bfloat16: not where they are no longer those of the base."""
        return True

    @property
    def base_may_be_quantized(self) -> bool:
        """Whether the frozen weights may be held in 4 or 8 bits."""
        return False

    def follower(self, module: nn.Module, horizon: Horizon) -> Follower | None:
        """Return what follows a training of the adapter step by step, or None.

        Args:
            module: The module it is attached to.
            horizon: How long the training is.

        Raises:
            ConfigError: if the training is too short for it.
        """
        return None

    def regrouped(self, groups: list[dict[str, Any]], named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Return the optimiser's groups with other rates or decays, where the method wants them.

        Args:
            groups: Groups for torch, each with `name`, `params`, `lr` and `weight_decay`.
            named: Parameters by name.
        """
        return groups


def sizes_of(module: nn.Module) -> dict[str, int]:
    """Return how many numbers a module with an adapter has: `adapter` and `head` are trained, `base` is what is frozen."""
    trained = [(name, parameter.numel()) for name, parameter in module.named_parameters() if parameter.requires_grad]
    head = sum(numbers for name, numbers in trained if ".modules_to_save." in name)
    base = sum(_numbers(parameter) for name, parameter in module.named_parameters() if not parameter.requires_grad and OWN not in name)
    return {"adapter": sum(numbers for _, numbers in trained) - head, "head": head, "base": base}


def _numbers(parameter: Any) -> int:
    """Return how many numbers a parameter stands for; of 4 bits, two share a byte."""
    whole = getattr(parameter, "quant_state", None)
    return prod(whole.shape) if whole is not None else int(parameter.numel())
