"""How likely a model finds the right texts of all rows, and the scores of what it wrote itself for some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.metrics.found import Found
from luthier.metrics.intervals import Score
from luthier.metrics.likelihoods import Likelihoods
from luthier.metrics.row_sums import RowSums


@dataclass(frozen=True, eq=False)
class Joined(Found):
    """Scores of two kinds about one set of rows; two models are compared by the first kind.

    Args:
        likelihoods: Of all rows.
        texts: Of the rows for which a text was written; None where there are none.
    """

    likelihoods: Likelihoods
    texts: RowSums | None

    @property
    def ids_N(self) -> np.ndarray:  # type: ignore[override]
        """Sample ids of all rows."""
        return self.likelihoods.ids_N

    def select(self, mask_N: np.ndarray) -> Joined:
        """Return the rows where `mask_N` is true, with the texts that were written for them."""
        chosen = self.likelihoods.select(mask_N)
        if self.texts is None:
            return Joined(chosen, None)
        has_text = np.isin(self.texts.ids_N, chosen.ids_N)
        return Joined(chosen, self.texts.select(has_text) if has_text.any() else None)

    def scores(
        self, *, keys: Sequence[str] | None = None, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Score]:
        """Return the scores of both kinds, each with a bootstrap interval over its rows; see `Found.scores`."""
        how: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": seed}
        found = self.likelihoods.scores(**how) | ({} if self.texts is None else self.texts.scores(**how))
        return found if keys is None else {key: found.get(key, Score(None)) for key in keys}

    def compared_with(self, base: Found, *, resamples: int, confidence: float) -> dict[str, Any]:
        """Return how the loss stands against another model's; see `Likelihoods.compared_with`."""
        other = base.likelihoods if isinstance(base, Joined) else base
        assert isinstance(other, Likelihoods)
        return self.likelihoods.compared_with(other, resamples=resamples, confidence=confidence)

    def behind(self, *, resamples: int) -> dict[str, Any]:
        """Return how many tokens there were, and of how many rows texts were written."""
        found = self.likelihoods.behind(resamples=resamples)
        if self.texts is None:
            return found
        return found | {"written": {"num_rows": len(self.texts), **self.texts.details}}
