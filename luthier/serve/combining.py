"""How the answers of several models become one, and how sure they are together.

Shapes: M models, N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.metrics.answered import THRESHOLD

WAYS = ("mean", "vote", "stack")
TIE_BREAK = 1e-3  # share of the mean in a vote: it decides between equal votes and nothing else
LEAST = 1e-6  # probabilities below it count as it in a logarithm; answers are written with six digits


@dataclass(frozen=True)
class Stack:
    """A logistic regression over the answers of several models: a weight for each model, an offset for each class.

    Args:
        weights_M: What the log-odds of each model are multiplied by.
        offsets_C: What is added for each class.

    Reference: D. Wolpert, Stacked Generalization, 1992.
    """

    weights_M: tuple[float, ...]
    offsets_C: tuple[float, ...]

    def scores(self, evidence_MNC: np.ndarray) -> np.ndarray:
        """Return `scores_NC`, of which softmax (or, for several labels a row, the sigmoid) gives probabilities."""
        return np.asarray(np.tensordot(np.array(self.weights_M), evidence_MNC, axes=1) + np.array(self.offsets_C))

    def probabilities(self, probabilities_MNC: np.ndarray, *, multi_label: bool) -> np.ndarray:
        """Return the probabilities of the models together, `(N, C)`."""
        return as_probabilities(self.scores(evidence(probabilities_MNC, multi_label=multi_label)), multi_label=multi_label)


def evidence(probabilities_MNC: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return what a logistic regression adds up: logarithms of probabilities; for several labels a row their log-odds."""
    least_MNC = np.clip(probabilities_MNC, LEAST, 1 - LEAST if multi_label else 1.0)
    return np.asarray(np.log(least_MNC) - np.log1p(-least_MNC) if multi_label else np.log(least_MNC))


def as_probabilities(scores_NC: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return softmax of scores over the classes; for several labels a row the sigmoid of each."""
    from scipy.special import expit, softmax

    return np.asarray(expit(scores_NC) if multi_label else softmax(scores_NC, axis=1))


def combined(probabilities_MNC: np.ndarray, *, how: str, multi_label: bool, stack: Stack | None = None) -> np.ndarray:
    """Return the probabilities that several models give together, `(N, C)`.

    Args:
        probabilities_MNC: What each model gives.
        how: mean of the probabilities; vote: the share of the models that give the answer, the mean where votes are even; stack.
        multi_label: Whether a row can have several labels.
        stack: The fitted weights, for how=stack.
    """
    if how == "stack":
        assert stack is not None, "a stack is fitted before it is used"
        return stack.probabilities(probabilities_MNC, multi_label=multi_label)
    mean_NC = probabilities_MNC.mean(axis=0)
    if how == "mean":
        return np.asarray(mean_NC)
    votes_NC = answers_of(probabilities_MNC, multi_label=multi_label).mean(axis=0)
    if multi_label:
        return np.where(votes_NC == THRESHOLD, mean_NC, votes_NC)
    return np.asarray((votes_NC + TIE_BREAK * mean_NC) / (1 + TIE_BREAK))


def answers_of(probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return the answers with one bool for each class on the last axis."""
    if multi_label:
        return np.asarray(probabilities >= THRESHOLD)
    return np.asarray(probabilities.argmax(axis=-1)[..., None] == np.arange(probabilities.shape[-1]))


def uncertainty(probabilities_MNC: np.ndarray, answer_NC: np.ndarray, *, multi_label: bool) -> dict[str, np.ndarray]:
    """Return how sure several models are together, a number for each row.

    Args:
        probabilities_MNC: What each model gives.
        answer_NC: What they answer together, one bool for each class.
        multi_label: Whether a row can have several labels; entropies are then summed over the labels.

    Returns:
        `entropy` of the mean of the probabilities, in nats: all that is not sure; `mutual_information`: the part of it that is
        disagreement of the models, high where the row is unlike those of training; `agreement`: share of the models that give the answer.

    Reference: B. Lakshminarayanan, A. Pritzel and C. Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, 2017; N. Houlsby et al., Bayesian Active Learning for Classification, 2011.
    """
    entropy_N = _entropy(probabilities_MNC.mean(axis=0), multi_label)
    own_N = _entropy(probabilities_MNC, multi_label).mean(axis=0)
    alike_MN = (answers_of(probabilities_MNC, multi_label=multi_label) == answer_NC).all(axis=-1)
    return {"entropy": entropy_N, "mutual_information": np.maximum(entropy_N - own_N, 0.0), "agreement": alike_MN.mean(axis=0)}


def _entropy(probabilities: np.ndarray, multi_label: bool) -> Any:
    from scipy.special import entr

    return (entr(probabilities) + (entr(1 - probabilities) if multi_label else 0.0)).sum(axis=-1)
