"""What the training tests read of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files
from luthier.core.tick import Tick
from luthier.flow import Training


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The ticks of `events.jsonl`, without what depends on the clock."""
    clock = ("seconds", "tokens_per_second", "memory_bytes")
    lines = [line for line in files.read_json_lines(run / "events.jsonl") if "event" not in line]
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def events_of(run: Path, name: str) -> list[dict[str, Any]]:
    """The events of one name."""
    return [line for line in files.read_json_lines(run / "events.jsonl") if line.get("event") == name]


def weights_hash(run: Path) -> str:
    """The sha256 of the model's weights."""
    return files.sha256_file(run / "model" / "model.safetensors")


def checkpoints_of(run: Path) -> list[int]:
    """Steps of the checkpoints, oldest first."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").glob("step-*"))


def checkpoint_weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights in a checkpoint, without what is only needed to go on."""
    tensors = load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("word_embeddings.decay")}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train_until(recipe: dict[str, Any], step: int) -> Path:
    """Train, and drop everything right after a step, as a killed process would; returns the run folder."""
    training = Training.begin(recipe)
    ticks = iter(training)
    for tick in ticks:
        if tick.step == step:
            break
    ticks.close()  # type: ignore[attr-defined]
    return training.run.path


def losses(recipe: dict[str, Any]) -> list[float]:
    """The loss of every step of a run."""
    return [tick.loss for tick in ticks(recipe)]


def ticks(recipe: dict[str, Any]) -> list[Tick]:
    """Every tick of a run."""
    return list(flow.Training.begin(recipe))
