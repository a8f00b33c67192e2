"""Several adapters at work on one base: the weights that none of them trained are held once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.core.errors import ConfigError, Fault
from luthier.core.run_folder import RunFolder
from luthier.serve.predictor import Predictor

CONFIG = "adapter_config.json"
WRAPPERS = (".base_layer", ".original_module")


def open_on_one_base(paths: Mapping[str, str | Path]) -> dict[str, Predictor]:
    """Return a predictor for each adapter, by its name; all hold the same base in memory.

    Args:
        paths: Finished runs with adapters, by names of one's own.

    Raises:
        ConfigError: if one has no adapter, or another base than the first.
        SetupError: if there is no such run.
    """
    bases = {name: _base_of(name, path) for name, path in paths.items()}
    first = next(iter(bases), "")
    unlike = [name for name in bases if bases[name] != bases[first]]
    if unlike:
        what = f"its base is {bases[unlike[0]]}, that of '{first}' is {bases[first]}"
        raise ConfigError([Fault(unlike[0], what, "open it by itself: luthier.load(RUN)")])
    opened: dict[str, Predictor] = {}
    held: dict[tuple[str, Any], Any] = {}
    for name, path in paths.items():
        opened[name] = Predictor.open(path)
        _share(opened[name], held)
    return opened


def _base_of(name: str, path: str | Path) -> str:
    run = RunFolder.open(path)
    run.require_finished()
    if not (run.model / CONFIG).is_file():
        raise ConfigError([Fault(name, f"'{path}' has no adapter", "name a run that was trained with adapter.type=...")])
    return str(files.read_json(run.model / CONFIG)["base_model_name_or_path"])


def _share(predictor: Predictor, held: dict[tuple[str, Any], Any]) -> None:
    """Let parameters that are equal to those held under their names in the base be those, and hold all others."""
    import torch

    for part in predictor.parts.values():
        for name, parameter in part.module.named_parameters():
            for wrapper in WRAPPERS:
                name = name.replace(wrapper, "")
            one = held.setdefault((name, parameter.dtype), parameter.data)
            if torch.equal(one, parameter.data):
                parameter.data = one
