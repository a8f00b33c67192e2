"""The smallest thing that has checkpoints: one weight vector and its optimiser, whose values tell the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from luthier.core.work import Part
from luthier.training import checkpoint
from luthier.training.checkpoint import Saved
from luthier.training.state import TrainingState

IDENTITY = {"data": {"train file": "0" * 64}, "schedule": {"warmup": "6%"}}


class Place:
    """A source that is only a number."""

    def __init__(self) -> None:
        self.reached = 0

    def state_dict(self) -> dict[str, Any]:
        return {"reached": self.reached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reached = state["reached"]


def bowl(step: int, *, width: int = 4, identity: dict[str, Any] | None = None) -> Saved:
    """What a checkpoint of a step takes: every weight is the step, and the optimiser has made one step."""
    module = torch.nn.Linear(width, width, bias=False)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.0)
    module.weight.grad = torch.full_like(module.weight, float(step))
    optimiser.step()
    optimiser.zero_grad()
    with torch.no_grad():
        module.weight.fill_(step)
    place = Place()
    place.reached = step
    return Saved({"model": Part(module)}, optimiser, place, TrainingState(step=step), identity or IDENTITY)


def loaded_step(folder: Path) -> int:
    """Load a checkpoint into a fresh bowl; returns the step that weights, optimiser, source and counters agree on."""
    saved = bowl(0)
    checkpoint.load(folder, saved)
    weight = saved.parts["model"].module.weight
    moments = next(iter(saved.optimiser.state.values()))
    found = {int(weight[0, 0]), int(weight[-1, -1]), round(float(moments["exp_avg"][0, 0]) * 10), saved.source.reached, saved.state.step}
    assert len(found) == 1, f"{folder.name} mixes steps {found}"
    return found.pop()
