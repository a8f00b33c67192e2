"""How many tokens a tokenizer does not know: overall, by split, and by the values of the slice column."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from luthier.data.encode import Encoded


class UnknownTokens:
    """Counts unknown tokens over splits.

    Args:
        tokenizer: Whose unknown and special tokens count; one without an unknown token knows everything.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._unknown = tokenizer.unk_token_id
        self._special = [token for token in tokenizer.all_special_ids if token != self._unknown]
        self._counts: dict[str, Counter[str]] = {"split": Counter(), "slice": Counter()}
        self._totals: dict[str, Counter[str]] = {"split": Counter(), "slice": Counter()}

    def add(self, split: str, encoded: Encoded, slices: list[Any] | None = None) -> None:
        """Count the tokens of one split, special tokens left out."""
        real = ~np.isin(encoded.tokens, self._special)
        unknown = np.zeros_like(real) if self._unknown is None else encoded.tokens == self._unknown
        self._count("split", split, real, unknown)
        if slices is not None:
            values = np.repeat(np.asarray([str(value) for value in slices]), encoded.num_tokens_N)
            for value in np.unique(values):
                self._count("slice", str(value), real & (values == value), unknown & (values == value))

    def facts(self) -> dict[str, Any]:
        """Return the shares for `data.json`, each from 0 to 1."""
        overall = _share(sum(self._counts["split"].values()), sum(self._totals["split"].values()))
        return {"unknown_share": overall, "unknown_share_by_split": self._shares("split"), "by_slice": self._shares("slice")}

    def _count(self, kind: str, name: str, real: np.ndarray, unknown: np.ndarray) -> None:
        self._totals[kind][name] += int(real.sum())
        self._counts[kind][name] += int(unknown.sum())

    def _shares(self, kind: str) -> dict[str, float]:
        return {name: _share(self._counts[kind][name], total) for name, total in self._totals[kind].items()}


def _share(count: int, total: int) -> float:
    return round(count / total, 6) if total else 0.0
