"""One strict registry: a name is a file name in a room, imported on first use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.names import did_you_mean

T = TypeVar("T")
USER_MODULES = "luthier_user"


class Registry(Generic[T]):
    """Names to classes for one kind of part (losses, schedules, tasks ...).

    A file `my_thing.py` in the package gives the name `my-thing`; the file adds its class with the decorator `add`.
    Outside packages use the entry point group named like `group`; a user's own file is taken with `load_file`.

    Args:
        package: Package that is searched for files, such as `luthier.losses`.
        base: Path of the base class, `module:name`; each added class must derive from it.
        noun: What one entry is called in messages, such as `loss`.

    Raises:
        ConfigError: from `get`, for an unknown name.
        TypeError: from `add`, for a class that does not derive from the base.
        ConfigError: from `add`, for a name that is taken.
    """

    def __init__(self, package: str, *, base: str, noun: str) -> None:
        self.package, self.noun = package, noun
        self._base = base
        self._classes: dict[str, type[T]] = {}
        self._file_name: str | None = None

    @property
    def group(self) -> str:
        """Entry point group for outside packages: the package name."""
        return self.package

    def names(self) -> list[str]:
        """Every name that `get` accepts, sorted; imports nothing."""
        outside = {point.name for point in entry_points(group=self.group)}
        return sorted(set(self._files()) | outside | set(self._classes))

    def get(self, name: str) -> type[T]:
        """Return the class behind `name`, importing its file on first use."""
        if name not in self._classes:
            self._import(name)
        if name not in self._classes:
            raise ConfigError([Fault(self.noun, f"unknown {self.noun} '{name}'", did_you_mean(name, self.names()))])
        return self._classes[name]

    def add(self, cls: type[T]) -> type[T]:
        """Class decorator: register `cls` under the name of the file it stands in."""
        module, _, base_name = self._base.partition(":")
        base = getattr(importlib.import_module(module), base_name)
        if not issubclass(cls, base):
            raise TypeError(f"{cls.__name__} must derive from {base_name} to be a {self.noun}")
        name = self._file_name or cls.__module__.rpartition(".")[2].replace("_", "-")
        taken = self._classes.get(name)
        is_ours = cls.__module__.startswith(f"{self.package}.")
        if (name in self._files() and not is_ours) or (taken is not None and taken.__qualname__ != cls.__qualname__):
            raise ConfigError([Fault(self.noun, f"the name '{name}' is taken by {self.origin(name)}", "give your file another name")])
        self._classes[name] = cls
        cls.registered_name = name  # type: ignore[attr-defined]
        return cls

    def origin(self, name: str) -> str:
        """Return the file that gives `name`."""
        cls: Any = self.get(name)
        return str(sys.modules[cls.__module__].__file__)

    def _files(self) -> dict[str, str]:
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return {}
        files = (f for folder in spec.submodule_search_locations for f in Path(folder).glob("*.py"))
        base_module = self._base.partition(":")[0].rpartition(".")[2]
        return {f.stem.replace("_", "-"): f.stem for f in files if f.stem not in ("__init__", base_module)}

    def _import(self, name: str) -> None:
        stem = self._files().get(name)
        if stem is not None:
            importlib.import_module(f"{self.package}.{stem}")
            return
        for point in entry_points(group=self.group):
            if point.name == name:
                self._file_name = name
                try:
                    self.add(point.load())
                finally:
                    self._file_name = None


def load_user_file(path: str | Path) -> None:
    """Import a user's own file (`--code my.py`), whose classes add themselves to the registries.

    Args:
        path: The Python file. It is run: only name files you trust.

    Raises:
        SetupError: if the file does not exist.
    """
    file = Path(path)
    if not file.is_file():
        raise SetupError(f"no such file: {file}", where="--code", fix="give the path of a Python file")
    name = f"{USER_MODULES}.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
