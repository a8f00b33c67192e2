"""Batches of 8, 4 and 1 with 1, 2 and 8 of them in a step give the same gradient: with ragged lengths and a last step that is smaller."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from luthier import flow
from luthier.core.work import Batch
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.training.step_rules import step_rules

SPLITS = [(8, 1), (4, 2), (1, 8)]
NUM_TRAINING_ROWS = 21  # three windows: 8, 8 and 5 rows
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced class weights": {"loss": {"type": "cross-entropy", "class_weights": "balanced"}},
    "label smoothing": {"loss": {"type": "cross-entropy", "label_smoothing": 0.1}},
    "focal": {"loss": {"type": "focal"}},
    "windows": {"data.long_texts": "windows", "data.max_length": 7, "data.window_stride": 1},
    "mean pooling": {"model.head": {"pooling": "mean", "hidden": [8], "dropout": 0.0}},
}


def laid_out(recipe: dict[str, Any], batch_size: int, accumulate: int) -> Bench:
    """Everything laid out, with weights that no gradient is 0 on: the last layer starts at 0, and would hide the body."""
    size = {"batch_size": batch_size, "gradient_accumulation_steps": accumulate, "group_by_length": False}
    resolved = resolve(recipe, [("training", {**recipe["training"], **size})])
    bench = lay_out(resolved, flow.prepare(resolved))
    torch.manual_seed(5)
    with torch.no_grad():
        for part in bench.parts.values():
            for parameter in part.module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return bench


def gradients(bench: Bench) -> list[tuple[list[Batch], float, Tensor]]:
    """Window, loss and gradient of each step of one epoch, at the same weights."""
    rule, found = step_rules.get("accumulate")(), []
    windows = iter(bench.saved.source)
    for _ in range(bench.pace.steps_per_epoch):
        window = next(windows)
        means = rule.gradient(bench.work, bench.parts, window, nullcontext())
        parameters = [parameter for part in bench.parts.values() for parameter in part.module.parameters()]
        found.append((window, means["total"], torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])))
        bench.saved.optimiser.zero_grad()
    return found


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_any_split_of_a_step_gives_the_same_gradient(
    changes: dict[str, Any], recipe: Callable[..., dict[str, Any]], still_model: Path, tmp_path: Path
) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    data = recipe("run", {"data.split": {"test": 0}, **changes}, model=still_model, rows=rows)
    by_split = {split: gradients(laid_out(data, *split)) for split in SPLITS}
    assert [[len(batch.ids) for batch in window] for window, _, _ in by_split[4, 2]] == [[4, 4], [4, 4], [4, 1]]
    lengths = {batch.inputs["input_ids"].shape[1] for window, _, _ in by_split[1, 8] for batch in window}
    assert len(lengths) >= (3 if "data.long_texts" not in changes else 1), "the lengths must be ragged"
    for split in SPLITS[1:]:
        for (window, loss, gradient), (other_window, other_loss, other) in zip(by_split[8, 1], by_split[split], strict=True):
            ids = [sorted(id_ for batch in batches for id_ in batch.ids) for batches in (window, other_window)]
            assert ids[0] == ids[1], "both steps must see the same rows"
            assert other_loss == pytest.approx(loss, rel=1e-6)
            assert float((other - gradient).norm()) <= 1e-6 * float(gradient.norm())
            assert gradient.count_nonzero() > 0.1 * gradient.numel()


def test_whole_runs_agree(recipe: Callable[..., dict[str, Any]], still_model: Path) -> None:
    curves = []
    for batch_size, accumulate in SPLITS:
        size = {"training.batch_size": batch_size, "training.gradient_accumulation_steps": accumulate, "training.group_by_length": False}
        settings = {**size, "training.max_steps": 15, "optim.learning_rate": 1e-3, "evaluate.baseline": False}
        training = flow.Training.begin(recipe(f"run-{batch_size}", settings, model=still_model))
        curves.append([(tick.loss, tick.samples, tick.tokens) for tick in training])
    losses = [[loss for loss, _, _ in curve] for curve in curves]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert [step[1:] for step in curves[0]] == [step[1:] for step in curves[1]] == [step[1:] for step in curves[2]]
