"""What can be had without tuning: the bar that a tuned model is measured against.

Shapes: N training rows, M test rows, H embedding width, C classes.
"""

from __future__ import annotations

import numpy as np

TEMPERATURE = 0.05
"""Cosine similarities of sentence embeddings differ by some tenths: divided by this, they give probabilities of use."""


def majority(train_truth: np.ndarray, num_rows: int, num_classes: int) -> np.ndarray:
    """Answer every row with the shares of the labels in training: the most common label wins.

    Args:
        train_truth: Class indices `(N,)`, or for multi-label bools `(N, C)`.
        num_rows: Number of rows to answer.
        num_classes: Number of labels.

    Shape:
        probabilities_MC, all rows equal.
    """
    train_truth = np.asarray(train_truth)
    counts_C = train_truth.sum(axis=0) if train_truth.ndim == 2 else np.bincount(train_truth, minlength=num_classes)
    return np.tile(counts_C / len(train_truth), (num_rows, 1))


def nearest_centroid(
    train_embeddings_NH: np.ndarray,
    train_truth_N: np.ndarray,
    test_embeddings_MH: np.ndarray,
    num_classes: int,
    *,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Answer each row with the class whose mean training embedding is nearest in direction.

    Args:
        train_embeddings_NH: Embeddings of the training rows.
        train_truth_N: Their class indices.
        test_embeddings_MH: Embeddings of the rows to answer.
        num_classes: Number of classes; one without training rows is never answered (probability 0).
        temperature: What the cosine similarities in [-1, 1] are divided by before the softmax, over 0; it changes how
            sure the answers are, never which class wins.

    Shape:
        probabilities_MC, each row sums to 1.

    Example:
        >>> nearest_centroid(np.eye(2), np.array([0, 1]), np.array([[2.0, 0.1]]), 2).argmax(axis=1)
        array([0])
    """
    counts_C = np.bincount(train_truth_N, minlength=num_classes)
    sums_CH = np.zeros((num_classes, train_embeddings_NH.shape[1]))
    np.add.at(sums_CH, train_truth_N, train_embeddings_NH)  # a mean has the direction of its sum
    similarity_MC = _directions(test_embeddings_MH) @ _directions(sums_CH).T
    logits_MC = np.where(counts_C > 0, similarity_MC / temperature, -np.inf)
    exponentials_MC = np.exp(logits_MC - logits_MC.max(axis=1, keepdims=True))
    return np.asarray(exponentials_MC / exponentials_MC.sum(axis=1, keepdims=True))


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)
