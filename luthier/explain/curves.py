"""Curves of a run: read from its ticks, smoothed, and thinned without losing a spike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from luthier.explain.story import Plain, lookup

Points = list[tuple[float, float]]


def series(ticks: Sequence[Plain], name: str) -> Points:
    """Return (step, value) of one field of the ticks, leaving out what is absent or not finite."""
    return [(float(tick["step"]), float(tick[name])) for tick in ticks if _is_finite(tick.get(name))]


def score_series(ticks: Sequence[Plain], metric: str, *, split: str = "validation") -> Points:
    """Return (step, value) of a score that was measured during training."""
    measured = [(float(tick["step"]), lookup(tick, "scores", split, metric)) for tick in ticks]
    return [(step, float(value)) for step, value in measured if _is_finite(value)]


def smooth(points: Points, *, window: float = 0.015) -> Points:
    """Take the noise out of a curve by a centred Gaussian mean, so that it does not lag behind.

    Args:
        points: The curve, evenly spaced.
        window: Width of the mean as a fraction of the curve.
    """
    sigma = window * len(points)
    if sigma < 0.75:
        return list(points)
    reach = math.ceil(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    values = np.array([value for _, value in points])
    total = np.convolve(values, kernel)[reach:-reach]
    weight = np.convolve(np.ones(len(values)), kernel)[reach:-reach]
    return [(step, float(value)) for (step, _), value in zip(points, total / weight, strict=True)]


def thin(points: Points, *, most: int = 300) -> Points:
    """Reduce a curve to at most `most` points: the lowest and the highest of each stretch, so that spikes stay."""
    if len(points) <= most:
        return list(points)
    kept: Points = []
    for stretch in np.array_split(np.arange(len(points)), most // 2):
        by_value = sorted(stretch, key=lambda index: points[index][1])
        kept += [points[index] for index in sorted({by_value[0], by_value[-1]})]
    return kept


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
