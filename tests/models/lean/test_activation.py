"""GELU by tanh as one function is the one that transformers writes out."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import NewGELUActivation

from luthier.models.lean.activation import swap_activations


def test_it_is_replaced_and_gives_the_same() -> None:
    model = nn.Sequential(nn.Linear(8, 8), NewGELUActivation(), nn.ReLU())
    states = torch.randn(50, 8) * 4
    before = model(states)
    assert swap_activations(model) == 1 and isinstance(model[1], nn.GELU) and isinstance(model[2], nn.ReLU)
    assert torch.allclose(model(states), before, atol=1e-6)
