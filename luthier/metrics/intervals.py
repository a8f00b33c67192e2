"""Every score with its bootstrap interval.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.metrics import metrics
from luthier.metrics.answered import Answered
from luthier.metrics.metric import Metric

LEAST_RESAMPLES = 200
MOST_WORK = 400_000_000  # rows x labels x resamples: about 6 s on one core for 100,000 rows of 10 labels
CHUNK = 4_000_000  # counts held at once: 32 MB, and a few times that while a metric works on them


@dataclass(frozen=True)
class Score:
    """A score with the ends of its interval; all None where it is undefined, the ends None where none was asked for.

    Args:
        value: The score of all rows.
        low: Lower end of the interval.
        high: Upper end of the interval.
        resamples: Bootstrap resamples behind the interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    resamples: int = 0

    def as_dict(self) -> dict[str, float | None]:
        """Return value, low and high, as they stand in `metrics.json`."""
        return {"value": self.value, "low": self.low, "high": self.high}


def scores(
    answered: Answered,
    *,
    keys: Sequence[str] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Score]:
    """Score the answers, each with a bootstrap interval over rows (percentile; basic where the metric is `mirrored`).

    Args:
        answered: The rows.
        keys: Score keys wanted, such as `["accuracy", "f1_macro"]`; None means all, those of an order only where classes have one.
        resamples: Number of bootstrap resamples; 0 gives the values alone, at once. Where rows x labels is huge fewer are
            drawn, never under 200: `Score.resamples` says how many.
        confidence: Share of resamples within the interval, in (0, 1).
        seed: Seed of the resamples: equal seeds give equal intervals.

    Returns:
        The scores by key, in the order of `keys`.

    Raises:
        ConfigError: for a key that no metric gives.

    Reference: A. Davison and D. Hinkley, Bootstrap Methods and their Application, 1997, chapter 5.
    """
    chosen = _chosen(list(score_keys(ordered=answered.ordered)) if keys is None else keys)
    values = {key: value for metric in chosen for key, value in metric.values(answered).items()}
    used = affordable(resamples, answered)
    drawn = _drawn(chosen, answered, used, seed) if used else {}
    every = {key: _score(metric, values[key], drawn.get(key, np.empty(0)), confidence) for metric in chosen for key in metric.keys}
    return {key: every[key] for key in (keys if keys is not None else every)}


def score_keys(*, ordered: bool = True) -> dict[str, str]:
    """Return every score key with the name of the metric that gives it.

    Args:
        ordered: Whether those are among them that are about classes in an order.
    """
    return {key: name for name in metrics.names() for key in metrics.get(name).keys if ordered or not metrics.get(name).ordered}


def affordable(resamples: int, answered: Answered) -> int:
    """Return how many resamples are drawn: those asked for, or fewer (never under 200) where rows x labels is huge."""
    limit = max(LEAST_RESAMPLES, MOST_WORK // answered.probabilities_NC.size)
    return min(resamples, limit)


def draw(num_rows: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw bootstrap resamples: how often each of N rows comes up in N draws with replacement.

    Returns:
        `counts_RN`, float64, with the numbers of one row side by side in memory.
    """
    draws_RN = rng.integers(0, num_rows, size=(resamples, num_rows))
    places_RN = draws_RN * resamples + np.arange(resamples)[:, None]
    return np.bincount(places_RN.ravel(), minlength=num_rows * resamples).reshape(num_rows, resamples).T.astype(np.float64)


def _chosen(keys: Sequence[str]) -> list[Metric]:
    """Return the metrics that give the keys, each once."""
    known = score_keys()
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise ConfigError([Fault("metrics", f"unknown score '{key}'", did_you_mean(key, known)) for key in unknown])
    return [metrics.get(name)() for name in dict.fromkeys(known[key] for key in keys)]


def _drawn(chosen: list[Metric], answered: Answered, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Return the values of each key over all resamples, worked out a chunk of resamples at a time."""
    chunks: dict[str, list[np.ndarray]] = {key: [] for metric in chosen for key in metric.keys}
    for counts_RN in _chunks_of_counts(len(answered), resamples, np.random.default_rng(seed)):
        for metric in chosen:
            for key, values_R in metric.resampled(answered, counts_RN).items():
                chunks[key].append(values_R)
    return {key: np.concatenate(parts) for key, parts in chunks.items()}


def _chunks_of_counts(num_rows: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    size = max(1, CHUNK // num_rows)
    for start in range(0, resamples, size):
        yield draw(num_rows, min(size, resamples - start), rng)


def _score(metric: Metric, value: float | None, drawn_R: np.ndarray, confidence: float) -> Score:
    """Put a value and its resamples together; resamples where it is undefined are left out of the interval."""
    defined_R = drawn_R[~np.isnan(drawn_R)]
    if value is None or not defined_R.size:
        return Score(value)
    low, high = np.quantile(defined_R, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    if metric.mirrored:
        least, greatest = metric.bounds
        low, high = min(value, max(least, 2 * value - high)), max(value, min(greatest, 2 * value - low))
    return Score(value, low, high, len(defined_R))
