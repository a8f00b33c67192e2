"""AdamW in 8 bits: close to AdamW, a quarter of its memory, resumes bit for bit; where it is missing, it says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from luthier.core.errors import SetupError
from luthier.optim.optimisers import optimisers
from luthier.training.checkpoint.optimiser_files import load_optimiser, save_optimiser


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(SetupError, match="needs the package torchao") as caught:
        optimisers.get("adamw-8bit").example().build([])
    assert caught.value.fix is not None and "pip install 'luthier[adamw-8bit]'" in caught.value.fix


def go(weight: torch.nn.Parameter, optimiser: torch.optim.Optimizer, steps: int, rate: float = 1e-2) -> torch.nn.Parameter:
    target = torch.linspace(-1, 1, 64 * 128).view(64, 128)
    for _ in range(steps):
        optimiser.param_groups[0]["lr"] = rate
        ((weight - target) ** 2).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return weight


def built(name: str, weight: torch.nn.Parameter) -> torch.optim.Optimizer:
    return optimisers.get(name).example().build([{"params": [weight], "lr": 1e-2, "weight_decay": 0.0}])


@pytest.mark.slow
def test_it_learns_as_adamw_does_and_resumes(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    weights = {name: torch.nn.Parameter(torch.zeros(64, 128)) for name in ("adamw", "adamw-8bit")}
    made = {name: built(name, weight) for name, weight in weights.items()}
    for name, weight in weights.items():
        go(weight, made[name], 20)
    difference = float((weights["adamw"] - weights["adamw-8bit"]).detach().norm() / weights["adamw"].detach().norm())
    assert 0 < difference < 0.05
    state = made["adamw-8bit"].state_dict()["state"][0]
    assert state["exp_avg.codes"].dtype == torch.uint8 and made["adamw-8bit"].param_groups[0]["lr"] == 1e-2
    sizes = {name: sum(t.nbytes for t in optimiser.state_dict()["state"][0].values()) for name, optimiser in made.items()}
    assert sizes["adamw-8bit"] < 0.3 * sizes["adamw"]

    save_optimiser(tmp_path, made["adamw-8bit"])
    other = torch.nn.Parameter(weights["adamw-8bit"].detach().clone())
    resumed = built("adamw-8bit", other)
    load_optimiser(tmp_path, resumed)
    assert torch.equal(go(other, resumed, 5), go(weights["adamw-8bit"], made["adamw-8bit"], 5))
