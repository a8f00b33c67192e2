"""What every adapter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.config import Registered

if TYPE_CHECKING:
    from torch import nn


class Adapter(Registered, ABC):
    """Settings of an adapter (its fields), how it is put into a model, saved and loaded."""

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
        """Write the adapter, and the head it left trained, as plain peft loads it.

        Args:
            module: The module it was attached to.
            folder: Where to.
            base: Folder or hub id of the model without the adapter.
        """

    @abstractmethod
    def load(self, module: nn.Module, folder: Path) -> None:
        """Put saved weights into a module that the adapter is attached to."""

    @abstractmethod
    def switched_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the module is the base model."""
