"""Start the last layer from what the pretrained features already tell apart, instead of from nothing.

N rows, H features, C classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

STRENGTH = 0.01  # of features scaled to a mean square of 1
MOST_ITERATIONS = 100


def fit_linear(features_NH: np.ndarray, targets_N: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights `(C, H)` and biases `(C,)` of a logistic regression on frozen features.

    A class without rows gets weight 0 and the lowest bias.

    Args:
        features_NH: What the last layer is fed, one row per text.
        targets_N: Class numbers.
        num_classes: Number of classes C.

    Reference: linear probing before fine-tuning, https://arxiv.org/abs/2202.10054
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scale = 1 / max(float(np.sqrt(np.square(features_NH).mean())), 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start need not be at the optimum
        fitted = LogisticRegression(C=STRENGTH, max_iter=MOST_ITERATIONS, tol=1e-3).fit(features_NH * scale, targets_N)
    weights, biases = fitted.coef_ * scale, fitted.intercept_
    if len(fitted.classes_) == 2 and len(weights) == 1:
        weights, biases = np.concatenate([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    weights_CH = np.zeros((num_classes, features_NH.shape[1]), np.float32)
    biases_C = np.full(num_classes, biases.min(), np.float32)
    weights_CH[fitted.classes_], biases_C[fitted.classes_] = weights, biases
    return weights_CH, biases_C


def fit_thresholds(features_NH: np.ndarray, targets_N: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights `(C, H)` and biases `(C,)` of a logistic regression for each threshold between classes in an order.

    In line c stands whether a row that is not below class c - 1 is above it; line 0 is not used. Where all rows that come to a threshold
    pass it, or none, its bias alone says so.

    Args:
        features_NH: What the last layer is fed, one row per text.
        targets_N: Class numbers, in ascending order.
        num_classes: Number of classes C.
    """
    weights_CH, biases_C = np.zeros((num_classes, features_NH.shape[1]), np.float32), np.zeros(num_classes, np.float32)
    for threshold in range(1, num_classes):
        come_N = targets_N >= threshold - 1
        passed = (targets_N[come_N] >= threshold).astype(np.int64)
        if 0 < passed.sum() < len(passed):
            both_2H, both_2 = fit_linear(features_NH[come_N], passed, 2)
            weights_CH[threshold], biases_C[threshold] = both_2H[1] - both_2H[0], both_2[1] - both_2[0]
        else:
            biases_C[threshold] = np.log((passed.sum() + 0.5) / (len(passed) - passed.sum() + 0.5))
    return weights_CH, biases_C


def new_last_layer(model: Any, new: frozenset[str]) -> Any | None:
    """Return the new linear layer that gives the class scores, or None where it came with the model.

    Args:
        model: A classifier.
        new: Names of the parameters that started from nothing.
    """
    from torch import nn

    from luthier.models.pooled import Cosines

    layers = [module for name, module in model.named_modules() if isinstance(module, nn.Linear | Cosines) and f"{name}.weight" in new]
    return layers[-1] if layers else None
