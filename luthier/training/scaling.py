"""Loss scaling for fp16: small gradients are lifted above the smallest fp16 number, and divided again before they are clipped.

The scale starts high and is halved at each overflow, so the first steps of a run, and one now and then, are skipped. Such a skip is no
sign of divergence, and does not count as one, until the scale has fallen below 1.

Reference: torch.amp.GradScaler, https://arxiv.org/abs/1710.03740
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from luthier.core.work import Batch, Parts, Terms
from luthier.training.step_rules.step_rule import Losses

LOWEST = 1.0


class Scaling(Protocol):
    """What the step asks of loss scaling."""

    def lifted(self, work: Losses) -> Losses:
        """Return the work with its losses multiplied by the scale."""

    def lowered(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means of the losses without the scale."""

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""

    def settle(self) -> None:
        """Move the scale on, after each step."""

    def explains(self, loss: float) -> bool:
        """Whether a step with this loss was skipped only because the scale was too high; asked before `settle`."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return what a checkpoint keeps."""


class NoScaling:
    """fp32 and bf16 need none."""

    def lifted(self, work: Losses) -> Losses:
        """Return the work."""
        return work

    def lowered(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means."""
        return means

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def explains(self, loss: float) -> bool:
        """There is no scale."""
        return False

    def state_dict(self) -> dict[str, Any] | None:
        """There is nothing to keep."""
        return None


@dataclass(frozen=True)
class LossScaling:
    """torch's scaler, which halves the scale at an overflow and doubles it after 2,000 steps without one.

    Args:
        scaler: The scaler.
        device: Device of the gradients.
    """

    scaler: torch.amp.GradScaler
    device: str

    def lifted(self, work: Losses) -> Losses:
        """Return the work with its losses multiplied by the scale."""
        return _Lifted(work, self.scaler.get_scale())

    def lowered(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means of the losses without the scale."""
        scale = self.scaler.get_scale()
        return {name: value / scale for name, value in means.items()}

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""
        self.scaler.scale(torch.zeros((), device=self.device))  # makes the scale's tensor, which unscale_ asks for
        self.scaler.unscale_(optimiser)

    def settle(self) -> None:
        """Halve the scale after an overflow; else count towards doubling it."""
        self.scaler.update()

    def explains(self, loss: float) -> bool:
        """Whether the loss itself is finite and the scale can still fall."""
        return math.isfinite(loss) and self.scaler.get_scale() >= LOWEST

    def state_dict(self) -> dict[str, Any] | None:
        """Return the scale and how far it is from growing."""
        return self.scaler.state_dict()


@dataclass(frozen=True)
class _Lifted:
    work: Losses
    scale: float

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weights as they are."""
        return self.work.weights(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term with its sum multiplied by the scale."""
        return {name: term._replace(sum=term.sum * self.scale) for name, term in self.work.losses(parts, batch).items()}


def scaling_for(precision: str, device: str, saved: dict[str, Any] | None) -> Scaling:
    """Return the loss scaling that a precision needs.

    Args:
        precision: fp32, bf16 or fp16.
        device: Device of the run.
        saved: What `state_dict` gave before the run was stopped, or None.
    """
    if precision != "fp16":
        return NoScaling()
    scaler = torch.amp.GradScaler(device.partition(":")[0])
    if saved is not None:
        scaler.load_state_dict(saved)
    return LossScaling(scaler, device)
