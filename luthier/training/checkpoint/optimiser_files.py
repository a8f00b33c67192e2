"""The optimiser's memory as files: tensors as safetensors, everything else as JSON, nothing that could run when loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from luthier.core import files

TENSORS, PLAIN = "optimiser.safetensors", "optimiser.json"


def save_optimiser(folder: Path, optimiser: torch.optim.Optimizer) -> None:
    """Write the state of an optimiser into a folder."""
    state = optimiser.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    save_file(tensors, folder / TENSORS)
    (folder / PLAIN).write_text(json.dumps({"param_groups": state["param_groups"], "state": plain}) + "\n", encoding="utf-8")


def load_optimiser(folder: Path, optimiser: torch.optim.Optimizer) -> None:
    """Put an optimiser into the state that `save_optimiser` wrote."""
    described = files.read_json(folder / PLAIN)
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in described["state"].items()}
    for key, tensor in load_file(folder / TENSORS).items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    groups = [
        {key: tuple(v) if isinstance(v, list) and key == "betas" else v for key, v in group.items()} for group in described["param_groups"]
    ]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
