"""What the adapters in a folder are made of, read from their files alone."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.run_folder import RunFolder
from luthier.stages.planning.headers import shapes_in

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIX = "name a run that was trained with adapter.type=..., its model folder, or a folder that the PEFT library saved"
OF_PEFT = ("r", "target_r", "init_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "num_virtual_tokens", "init_lora_weights")


def describe_adapters(path: str | Path) -> list[dict[str, Any]]:
    """Return name, method, settings, base, numbers of parameters and adapted modules of each adapter in a folder.

    Args:
        path: A finished run, or any folder with an adapter; the PEFT library puts further ones into folders within it.

    Raises:
        ConfigError: if there is no adapter.
        SetupError: if there is no such folder, or its run is not finished.
    """
    folder, run = _opened(Path(path))
    folders = [one for one in (folder, *sorted(folder.iterdir())) if (one / CONFIG).is_file()]
    if not folders:
        whole = (folder / "config.json").is_file() or (folder / SETTINGS).is_file()
        where = "the run" if run is not None else f"'{path}'"
        what = f"{where} has no adapter: its model is whole" if whole else f"{where} has no adapter: there is no {CONFIG} in it"
        raise ConfigError([Fault("FOLDER", what, FIX)])
    return [_described(one, run if one == folder else None) for one in folders]


def _opened(path: Path) -> tuple[Path, RunFolder | None]:
    """Return the folder in which the adapter has to be, and the run that it is the model of."""
    if not path.is_dir():
        raise SetupError(f"no folder at '{path}'", fix="list the runs here with: luthier runs")
    if (path / CONFIG).is_file():
        beside = RunFolder(path.parent)
        return path, beside if beside.model == path and beside.finished else None
    run = RunFolder(path)
    if not run.recipe.is_file():
        return path, None
    run.require_finished()
    run.require_one_task()
    return run.model, run


def _described(folder: Path, run: RunFolder | None) -> dict[str, Any]:
    config = files.read_json(folder / CONFIG)
    settings = read_settings(folder) if (folder / SETTINGS).is_file() else {}
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ConfigError([Fault("FOLDER", f"'{folder / CONFIG}' names no peft_type", FIX)])
    targets = config.get("target_modules") or []
    heads, numbers = _in_file(folder, config.get("modules_to_save") or [])
    sizes = files.read_json(run.metrics).get("parameters") if run is not None else None
    base = config.get("base_model_name_or_path")
    whole = sizes["base"] if sizes is not None else _numbers_of_base(base)
    counted = sizes if sizes is not None else numbers
    trained = None if counted is None else counted["adapter"]
    return {
        **({} if run is None else {"run": str(run.path)}),
        "name": (folder if run is None else run.path).resolve().name,
        "folder": str(folder),
        "adapter": settings.get("adapter") or _plain(config),
        "method": config["peft_type"],
        "r": config.get("r") or config.get("target_r"),
        "base": base,
        "base_in_half": settings.get("base_in_half", False),
        "target_modules": sorted(targets) if isinstance(targets, list) else [targets],
        "heads": heads,
        "parameters": sizes,
        "in_file": numbers,
        "share": round(trained / whole, 6) if trained is not None and whole else None,
        "bytes": sum(file.stat().st_size for file in folder.glob("adapter_model*")),
    }


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an adapter that the PEFT library saved, as far as they are said in a line."""
    kind = str(config["peft_type"]).lower().replace("_", "-")
    known = {name: config[name] for name in OF_PEFT if config.get(name) not in (None, False, 0.0, True)}
    return {"type": kind, **known}


def _in_file(folder: Path, named: list[str]) -> tuple[list[str], dict[str, int] | None]:
    """Return those of the named heads that the file holds (the PEFT library adds names of other models' heads), and its numbers.

    None where the weights are not in safetensors: other files may run code when they are opened.
    """
    if not (folder / WEIGHTS).is_file():
        return [], None
    try:
        sizes = {key: prod(shape) for key, shape in shapes_in(folder / WEIGHTS)}
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"'{folder / WEIGHTS}' cannot be read: {error}", fix="copy it again from where it was saved") from error
    found = {key: head for key in sizes for head in named if head.rpartition(".")[2] in key.split(".")}
    of_heads = sum(sizes[key] for key in found)
    return sorted(set(found.values())), {"adapter": sum(sizes.values()) - of_heads, "head": of_heads}


def _numbers_of_base(base: str | None) -> int | None:
    """Return how many numbers a base has, where its folder is here."""
    folder = Path(base or "/no/folder").expanduser()
    try:
        found = [prod(shape) for file in sorted(folder.glob("*.safetensors")) for _, shape in shapes_in(file)]
    except (OSError, ValueError, KeyError):
        return None
    return sum(found) or None
