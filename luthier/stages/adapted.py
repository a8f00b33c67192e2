"""What a run's adapter is made of, read from its files alone."""

from __future__ import annotations

from typing import Any

from luthier.core import files
from luthier.core.errors import ConfigError, Fault
from luthier.core.model_folder import read_settings
from luthier.core.run_folder import RunFolder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def describe_adapter(run: RunFolder) -> dict[str, Any]:
    """Return method, settings, base, numbers of parameters and adapted modules of a run.

    Args:
        run: A finished run.

    Returns:
        The object that `luthier adapters --json` prints.

    Raises:
        ConfigError: if the run has no adapter.
    """
    settings = read_settings(run.model)
    if "adapter" not in settings:
        raise ConfigError([Fault("RUN", "the run has no adapter", "name a run that was trained with adapter.type=...")])
    config, sizes = files.read_json(run.model / CONFIG), files.read_json(run.metrics).get("parameters")
    targets = config.get("target_modules") or []
    return {
        "run": str(run.path),
        "adapter": settings["adapter"],
        "method": config["peft_type"],
        "base": config["base_model_name_or_path"],
        "base_in_half": settings["base_in_half"],
        "target_modules": sorted(targets) if isinstance(targets, list) else [targets],
        "heads": _heads(run, config.get("modules_to_save") or []),
        "parameters": sizes,
        "share": None if sizes is None else round(sizes["adapter"] / sizes["base"], 6),
        "bytes": sum(file.stat().st_size for file in run.model.glob("adapter_model*")),
    }


def _heads(run: RunFolder, named: list[str]) -> list[str]:
    """Return those of the named heads that the file holds; the PEFT library adds names of other models' heads."""
    from safetensors import safe_open

    with safe_open(run.model / WEIGHTS, framework="numpy") as file:
        parts = {part for key in file.keys() for part in key.split(".")}  # noqa: SIM118
    return sorted({name for name in named if name.rpartition(".")[2] in parts})
