"""AdaLoRA's directions that were dropped, left out of its file; the PEFT library knows from the pattern of ranks which they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core import files

CONFIG, METHOD, SCALES = "adapter_config.json", "ADALORA", ".lora_E"


def can_be_cut(config: Any) -> bool:
    """Whether an adapter is of the kind that drops directions."""
    return bool(config.peft_type.value == METHOD)


def cut(state: dict[str, Any], config: Any) -> tuple[dict[str, Any], Any]:
    """Return weights and configuration without the directions that are multiplied by 0; a fresh adapter keeps them all.

    Args:
        state: Weights by their names in a file.
        config: Configuration of the adapter, which gets the pattern.
    """
    kept_by_name = {name: (scales != 0).view(-1) for name, scales in state.items() if name.endswith(SCALES)}
    if all(bool(kept_R.all()) for kept_R in kept_by_name.values()) or not any(bool(kept_R.any()) for kept_R in kept_by_name.values()):
        return state, config
    state = dict(state)
    for name, kept_R in kept_by_name.items():
        path = name.removesuffix(SCALES)
        for letter in "AE":
            state[f"{path}.lora_{letter}"] = state[f"{path}.lora_{letter}"][kept_R]
        state[f"{path}.lora_B"] = state[f"{path}.lora_B"][:, kept_R]
    config.rank_pattern = {name.removeprefix("base_model.model."): kept_R.tolist() for name, kept_R in kept_by_name.items()}
    return state, config


def take_pattern(config: Any, folder: Path) -> None:
    """Give an adapter that is about to be loaded the pattern of its file.

    Args:
        config: Configuration of the adapter in the model.
        folder: Where the file is.
    """
    if can_be_cut(config):
        config.rank_pattern = files.read_json(folder / CONFIG).get("rank_pattern")
