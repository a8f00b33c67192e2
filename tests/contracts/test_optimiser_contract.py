"""Every registered optimiser: lowers a quadratic, obeys the rate of each group, and comes back from a checkpoint bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luthier.core.errors import SetupError
from luthier.core.work import Part
from luthier.optim.groups import parameter_groups
from luthier.optim.optimisers import optimisers
from luthier.training import checkpoint
from luthier.training.checkpoint import Saved
from luthier.training.state import TrainingState

every_optimiser = pytest.mark.parametrize("name", optimisers.names())
TARGET = torch.linspace(-1, 1, 12).reshape(4, 3)


class Bowl(nn.Module):
    """A quadratic whose lowest point is at TARGET and 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(4, 3))
        self.vector = nn.Parameter(torch.ones(3))

    def forward(self) -> Tensor:
        return ((self.matrix - TARGET) ** 2).sum() + ((self.vector - 0.5) ** 2).sum()


class Place:
    """A source that is nowhere in particular."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}


def built(name: str, bowl: nn.Module) -> torch.optim.Optimizer:
    example = optimisers.get(name).example()
    assert isinstance(example, optimisers.get(name)) and isinstance(example.learning_rate, float)
    rate = example.learning_rate
    groups = parameter_groups(bowl.named_parameters(), new=frozenset(), learning_rate=rate, head_learning_rate=rate, weight_decay=0.01)
    for group in groups:
        group["initial_lr"] = group["lr"]
    try:
        return example.build(groups)
    except SetupError as error:
        pytest.skip(f"{name}: {error.what}")


def go(bowl: Bowl, optimiser: torch.optim.Optimizer, num_steps: int) -> list[float]:
    """The loss before each step."""
    values = []
    for _ in range(num_steps):
        loss = bowl()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        values.append(float(loss.detach()))
    return values


def saved(bowl: Bowl, optimiser: torch.optim.Optimizer, step: int = 0) -> Saved:
    return Saved({"model": Part(bowl)}, optimiser, Place(), TrainingState(step=step), {"data": "same"})


def test_the_optimisers_of_the_issue_are_here() -> None:
    assert {"adamw", "adam", "sgd", "adafactor", "lion", "lamb", "muon", "schedule-free", "soap"} <= set(optimisers.names())


@every_optimiser
def test_lowers_a_quadratic_in_50_steps(name: str) -> None:
    bowl = Bowl()
    values = go(bowl, built(name, bowl), 50)
    assert values[-1] < 0.8 * values[0] and all(value == value for value in values)


@every_optimiser
def test_a_rate_of_0_moves_nothing(name: str) -> None:
    bowl = Bowl()
    optimiser = built(name, bowl)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    go(bowl, optimiser, 3)
    assert torch.equal(bowl.matrix, torch.ones(4, 3)) and torch.equal(bowl.vector, torch.ones(3))


@every_optimiser
def test_the_rate_is_obeyed_group_by_group(name: str) -> None:
    bowl = Bowl()
    optimiser = built(name, bowl)
    matrices = next(group for group in optimiser.param_groups if any(p is bowl.matrix for p in group["params"]))
    matrices["lr"] = 0.0
    go(bowl, optimiser, 3)
    assert torch.equal(bowl.matrix, torch.ones(4, 3)) and not torch.equal(bowl.vector, torch.ones(3))


@every_optimiser
def test_decay_pulls_matrices_and_leaves_vectors(name: str) -> None:
    bowl = Bowl()
    groups = {group["name"]: group["weight_decay"] for group in built(name, bowl).param_groups}
    assert groups == {"body": 0.01, "body, no decay": 0.0}


@pytest.mark.parametrize("name", [name for name in optimisers.names() if optimisers.get(name).rows_are_apart])
def test_rows_without_gradient_are_only_decayed(name: str) -> None:
    """What the word embedding of `training.speed.row_embedding` counts on."""
    tables = [nn.Parameter(torch.linspace(-1, 1, 24).reshape(6, 4)[:rows].clone()) for rows in (6, 3)]
    for table in tables:
        optimiser = optimisers.get(name).example().build([{"params": [table], "lr": 0.01, "weight_decay": 0.5, "inner": False}])
        for step in range(5):
            table.grad = torch.zeros_like(table)
            table.grad[:3] = torch.linspace(-1, 2, 12).reshape(3, 4) * (step - 2.5)
            optimiser.step()
    whole, learnt = (table.detach() for table in tables)
    assert torch.allclose(whole[:3], learnt, rtol=1e-6)
    assert torch.allclose(whole[3:], torch.linspace(-1, 1, 24).reshape(6, 4)[3:] * (1 - 0.01 * 0.5) ** 5, rtol=1e-6)


@every_optimiser
def test_a_checkpoint_brings_it_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    bowl = Bowl()
    optimiser = built(name, bowl)
    go(bowl, optimiser, 7)
    folder = checkpoint.save(tmp_path, saved(bowl, optimiser, step=7))
    expected = go(bowl, optimiser, 10)

    other = Bowl()
    other_optimiser = built(name, other)
    go(other, other_optimiser, 2)
    state = saved(other, other_optimiser)
    checkpoint.load(folder, state)
    assert state.state.step == 7
    assert go(other, other_optimiser, 10) == expected
    assert torch.equal(other.matrix, bowl.matrix) and torch.equal(other.vector, bowl.vector)
    assert same_state(other_optimiser.state_dict(), optimiser.state_dict())


@every_optimiser
def test_a_checkpoint_before_the_first_step_can_be_taken_up(name: str, tmp_path: Path) -> None:
    bowl = Bowl()
    optimiser = built(name, bowl)
    folder = checkpoint.save(tmp_path, saved(bowl, optimiser))
    checkpoint.load(folder, saved(bowl, optimiser))
    fresh = Bowl()
    assert go(bowl, optimiser, 5) == go(fresh, built(name, fresh), 5)


@every_optimiser
def test_it_keeps_what_it_says(name: str) -> None:
    """What `luthier plan` counts; single numbers, such as those of steps, are left out."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix, self.vector = nn.Parameter(torch.ones(64, 128)), nn.Parameter(torch.ones(96))

    plain = Plain()
    optimiser: Any = built(name, plain)
    for parameter in plain.parameters():
        parameter.grad = torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape)
    optimiser.step()
    kept = [value for values in optimiser.state_dict()["state"].values() for value in values.values() if isinstance(value, Tensor)]
    said = sum(optimisers.get(name).example().kept_bytes(p.shape, inner=p.ndim == 2) for p in plain.parameters())
    assert sum(tensor.nbytes for tensor in kept if tensor.numel() > 1) == said


@pytest.mark.parametrize("name", [name for name in optimisers.names() if optimisers.get(name).averages])
def test_the_average_changes_places_with_the_weights_bit_for_bit(name: str) -> None:
    bowl, other = Bowl(), Bowl()
    optimiser: Any = built(name, bowl)
    values = go(bowl, optimiser, 5)
    own = bowl.matrix.detach().clone()
    optimiser.exchange()
    assert not torch.equal(bowl.matrix, own) and float(bowl().detach()) < values[0]
    optimiser.exchange()
    assert torch.equal(bowl.matrix, own)
    assert values + go(bowl, optimiser, 5) == go(other, built(name, other), 10)


def same_state(one: Any, other: Any) -> bool:
    """Whether two states hold the same values of the same types; JSON makes a tuple a list."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same_state, one, other))
    return type(one) is type(other) and one == other
