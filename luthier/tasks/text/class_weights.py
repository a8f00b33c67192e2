"""What each class weighs in the loss.

C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.data.prepared import Prepared
from luthier.losses.loss import Loss

if TYPE_CHECKING:
    import torch


def weight_tensor(weights: tuple[float, ...] | None, *, like: torch.Tensor) -> torch.Tensor | None:
    """Return the weights of the classes, `(C,)`, on the device of a tensor; None where all weigh the same."""
    import torch

    return None if weights is None else torch.tensor(weights, device=like.device)


def class_weights(loss: Loss, prepared: Prepared) -> tuple[float, ...] | None:
    """Return the weight of each class: as named, or rows / (classes * rows of the class) for `balanced`.

    For `effective` it is (1 - beta) / (1 - beta^n) with n rows of the class, divided by the mean of all classes.

    Raises:
        ConfigError: if weights are named for labels that do not exist.

    Reference: effective number of samples, Cui et al., https://arxiv.org/abs/1901.05555
    """
    targets = prepared.splits["train"].targets
    counts_C = targets.sum(0) if targets.ndim == 2 else np.bincount(targets, minlength=len(prepared.labels))
    return weights_of_classes(loss, prepared.labels, counts_C, len(targets))


def weights_of_classes(loss: Loss, labels: Sequence[str], counts_C: np.ndarray, number: int) -> tuple[float, ...] | None:
    """Return the weight of each class; see `class_weights`.

    Args:
        loss: Says which weights.
        labels: Names of the classes.
        counts_C: How many targets each class has.
        number: How many rows, or other things with a class, there are.

    Raises:
        ConfigError: if weights are named for labels that do not exist.
    """
    if loss.class_weights == "none":
        return None
    if isinstance(loss.class_weights, dict):
        unknown = sorted(set(loss.class_weights) - set(labels))
        if unknown:
            known = ", ".join(labels)
            raise ConfigError([Fault(f"loss.class_weights.{name}", "no such label", f"labels: {known}") for name in unknown])
        return tuple(float(loss.class_weights.get(label, 1.0)) for label in labels)
    if loss.class_weights == "effective":
        raw_C = (1 - loss.effective_beta) / (1 - loss.effective_beta ** np.maximum(counts_C, 1).astype(np.float64))
        return tuple(float(weight) for weight in raw_C / raw_C.mean())
    return tuple(float(number / (len(counts_C) * max(int(count), 1))) for count in counts_C)
