"""Any split of a step into micro-batches gives the same gradient: the tests of tests/training/test_gradient_accumulation.py, as a proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from test_gradient_accumulation import CASES, NUM_TRAINING_ROWS, SPLITS, gradients, laid_out

from luthier.core.work import Batch

TOLERANCE = 1e-6


def test_any_split_of_a_step_gives_the_same_gradient(
    recipe: Callable[..., dict[str, Any]],
    still_model: Path,
    tmp_path: Path,
    scale: Callable[[int, int], int],
    proof: Callable[..., None],
) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    largest, num_compared = 0.0, 0
    for name in list(CASES)[: scale(1, len(CASES))]:
        data = recipe("run", {"data.split": {"test": 0}, **CASES[name]}, model=still_model, rows=rows)
        first, *others = ([step[2] for step in gradients(laid_out(data, *split))] for split in SPLITS)
        for other in others:
            for gradient, split in zip(first, other, strict=True):
                largest = max(largest, float((split - gradient).norm() / gradient.norm()))
                num_compared += 1
    proof(
        item="13",
        promise="batches of 8, 4 and 1 with 1, 2 and 8 of them in a step give the same gradient, ragged lengths and last window included",
        asked="relative difference at most 1e-6 in float32, dropout 0",
        reached=f"{largest:.1e} at most, over {num_compared} steps of {scale(1, len(CASES))} losses and heads",
        ok=largest <= TOLERANCE and num_compared == 6 * scale(1, len(CASES)),
    )


def test_a_mean_of_means_would_be_seen(recipe: Callable[..., dict[str, Any]], still_model: Path, tmp_path: Path) -> None:
    """The control: dividing each micro-batch by its own weight, as many trainers did, is far outside the tolerance."""
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    bench = laid_out(recipe("run", {"data.split": {"test": 0}}, model=still_model, rows=rows), 4, 2)
    window, _, right = gradients(bench)[-1]
    assert [len(batch.ids) for batch in window] == [4, 1], "the last window is ragged"
    parameters = [p for part in bench.parts.values() for p in part.module.parameters()]
    for batch in window:
        mean_of(bench.work, bench.parts, batch, share=1 / len(window)).backward()
    wrong = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    assert float((wrong - right).norm() / right.norm()) > 1000 * TOLERANCE


def mean_of(work: Any, parts: Any, batch: Batch, share: float) -> torch.Tensor:
    (term,) = work.losses(parts, batch).values()
    return share * term.sum / work.weights(batch)["loss"]
