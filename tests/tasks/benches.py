"""What the tests of a task lay out, and whether a saved model answers as the trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from luthier import flow
from luthier.core import files
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe, resolve
from luthier.serve.predictor import Predictor
from luthier.stages.begin import Bench, lay_out


def bench_of(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def prepared_of(recipe: dict[str, Any]) -> tuple[Recipe, Prepared]:
    resolved = resolve(recipe)
    return resolved, flow.prepare(resolved)


def reference_of(run: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    lines = files.read_json_lines(run / "reference.jsonl")
    return lines, np.array([line["logits"] for line in lines])


def same_after_loading(run: Path) -> None:
    """The saved model answers the reference texts as the trained one did."""
    lines, logits = reference_of(run)
    outputs = Predictor.open(run).outputs([line["text"] for line in lines])
    assert len(lines) > 5 and np.abs(outputs.logits_BC - logits).max() <= 1e-5
    assert np.abs(logits).max() > 1e-3, "the head learnt something, so that equal is not 0 = 0"
