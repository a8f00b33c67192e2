"""Mixout: in every step some weights are those that the training started from, as dropout makes some outputs 0.

Reference: Lee et al., https://arxiv.org/abs/1909.11299
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch, Parts
from luthier.training.state import TrainingState
from luthier.training.step_rules.step_rule import Deriving, Losses
from luthier.training.world import ALONE, World

STREAM = 11  # keeps these draws apart from others with the same seed


@dataclass(frozen=True)
class Start:
    """A trained matrix, and a copy of what it started from."""

    weight: Tensor
    before: Tensor


def starts_of(parts: Parts, new: frozenset[str]) -> list[Start]:
    """Return the trained matrices that came with the model, apart from embeddings, as they are now.

    Args:
        parts: Named modules.
        new: Names of parameters that started from nothing.

    Raises:
        ConfigError: if there are none.
    """
    modules = [found for part in parts.values() if part.mode == "trained" for found in part.module.named_modules()]
    layers = [(name, module) for name, module in modules if isinstance(module, nn.Linear | Conv1D)]
    weights = [module.weight for name, module in layers if f"{name}.weight" not in new and module.weight.requires_grad]
    if not weights:
        what = "mixes trained weights with pretrained ones, and no pretrained matrix is trained here"
        raise ConfigError([Fault("training.mixout", what, "leave training.mixout out")])
    return [Start(weight, weight.detach().clone()) for weight in {id(weight): weight for weight in weights}.values()]


@dataclass(frozen=True)
class Mixout:
    """A step rule whose gradient is that of mixed weights; the optimiser moves the weights themselves.

    What is mixed is drawn once for a step and follows from the seed and the step, so that micro-batches, processes and a resume do not
    matter. In the mean over the draws the weights are what they were.

    Args:
        rule: Makes the gradient of a window.
        starts: What is mixed, and with what.
        probability: How often a weight is the one that the training started from.
        seed: Seed of the run.
        state: Knows the step.
    """

    rule: Deriving
    starts: list[Start]
    probability: float
    seed: int
    state: TrainingState

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Add the gradient of the window, by way of the mixed weights."""
        with self._mixed() as factors:
            means = self.rule.gradient(work, parts, window, cast, world)
        for start, factor in zip(self.starts, factors, strict=True):
            if start.weight.grad is not None:
                start.weight.grad.mul_(factor)
        return means

    @contextmanager
    def _mixed(self) -> Iterator[list[Tensor]]:
        """Within the context the weights are mixed; after it they are what they were, bit for bit. Yields the slopes of the mixing."""
        factors = [self._factor(number, start.weight) for number, start in enumerate(self.starts)]
        own = [start.weight.detach().clone() for start in self.starts]
        try:
            with torch.no_grad():
                for start, factor in zip(self.starts, factors, strict=True):
                    start.weight.copy_(torch.addcmul(start.before, start.weight - start.before, factor))
            yield factors
        finally:
            with torch.no_grad():
                for start, weight in zip(self.starts, own, strict=True):
                    start.weight.copy_(weight)

    def _factor(self, number: int, weight: Tensor) -> Tensor:
        """Return 0 where a weight is its start in this step, else so much that the mean is 1."""
        dice = np.random.Generator(np.random.SFC64([self.seed, self.state.step, STREAM, number]))
        kept = torch.from_numpy(dice.random(tuple(weight.shape), dtype=np.float32) >= self.probability)
        return (kept.to(weight.dtype) / (1 - self.probability)).to(weight.device)
