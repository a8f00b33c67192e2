"""What bench/robustness.py makes of rows that were answered rightly: accuracy, falls, and how much less one falls than another."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from robustness import KINDS, PLAIN, figures, page  # noqa: E402


def right(num_right: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [num_right, 1000 - num_right])


def by_kind(*num_right: int) -> dict[str, np.ndarray]:
    return dict(zip(KINDS, map(right, num_right), strict=True))


def test_falls_are_compared_row_by_row() -> None:
    found = figures({PLAIN: by_kind(900, 700, 900), "fgm": by_kind(880, 780, 880)})
    assert [found["fgm"][kind]["accuracy"]["value"] for kind in KINDS] == [0.88, 0.78, 0.88]
    swaps = found["fgm"]["character swaps"]
    assert swaps["fall"]["value"] == pytest.approx(0.1) and swaps["less"]["value"] == pytest.approx(0.5)
    assert (
        0.08 < swaps["fall"]["low"] < 0.1 < swaps["fall"]["high"] < 0.12 and 0.4 < swaps["less"]["low"] < 0.5 < swaps["less"]["high"] < 0.6
    )
    assert "less" not in found["fgm"]["synonyms"], "plain training did not fall"
    assert "fall" not in found["fgm"][KINDS[0]] and "less" not in found[PLAIN]["character swaps"]


def test_the_page_says_what_was_measured() -> None:
    rules = figures({rule: by_kind(900, 700, 800) for rule in (PLAIN, "freelb")})
    text = page({"sst2": {"seeds": 2, "changes": ["training.epochs=1"], "rules": rules}})
    assert "## sst2 with training.epochs=1, 2 seed(s)" in text
    assert "| accumulate | as they are | 90.0 (" in text and "| freelb | character swaps | 70.0 (" in text and "| 0% (" in text
