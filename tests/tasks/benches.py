"""What the tests of a task lay out, and whether a saved model answers as the trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier import flow
from luthier.core import files
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe, resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out
from luthier.training.step_rules import step_rules


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


def gradient(laid: Bench, micro_batches: list[range]) -> dict[str, torch.Tensor]:
    """The gradient of one step over some training rows, without dropout."""
    split = laid.prepared.splits["train"]
    window = [laid.work.collate([split.row(index) for index in rows]) for rows in micro_batches]
    module = laid.parts["model"].module
    module.zero_grad()
    module.eval()
    step_rules.get("accumulate")().gradient(laid.work, laid.parts, window, torch.enable_grad())
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """How far two gradients are apart at most; they are not 0."""
    assert one.keys() == other.keys() and max(float(tensor.abs().max()) for tensor in one.values()) > 1e-3
    return max(float((one[name] - other[name]).abs().max()) for name in one)
