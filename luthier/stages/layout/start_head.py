"""Fit the new last layer on the pretrained model's features before the first step."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import local
from typing import Any

import numpy as np
import torch

from luthier.core.work import Batch, Parts
from luthier.data.batches import evaluation_order
from luthier.models.head_start import fit_linear, fit_thresholds, new_last_layer
from luthier.stages.layout.begin import Bench
from luthier.stages.results.measure import batches_of
from luthier.training.inference import run_batches
from luthier.training.precision import autocast

MOST_ROWS = 3000


def start_head(bench: Bench, most_rows: int = MOST_ROWS) -> float:
    """Set the last layer to a logistic regression on at most 3,000 training rows, and return the seconds it took.

    Nothing is done where the layer came with the model, for multi-label problems, or where `model.head.start` is zero.

    Args:
        bench: Everything laid out.
        most_rows: Rows that are looked at.
    """
    if bench.recipe.task.answers_with != "classes":
        return 0.0
    layer = new_last_layer(bench.parts["model"].module, bench.new)
    if layer is None or bench.prepared.multi_label or bench.recipe.model.head.start == "zero":
        return 0.0
    started = time.perf_counter()
    split = bench.prepared.splits["train"]
    rows = np.flatnonzero(split.num_tokens_N == split.longest_window_N)
    if not len(rows):
        return 0.0
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most_rows)).astype(int))]
    targets_N = split.targets[chosen]
    if len(np.unique(targets_N)) < 2:
        return 0.0
    features_NH = _features(bench, layer, chosen)
    fit = fit_thresholds if bench.recipe.task.head_gives == "thresholds" else fit_linear
    weights_CH, biases_C = fit(features_NH, targets_N, layer.out_features)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights_CH))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(biases_C))
    return time.perf_counter() - started


def _features(bench: Bench, layer: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    """Return what the layer is fed for some rows, `(N, H)`, in their order; a layer that is fed every token: for the last one."""
    here = local()  # batches are on several cores at a time

    def remember(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        here.fed = inputs[0].detach()

    batches, outputs = _batches(bench, rows)

    def features_of(parts: Parts, batch: Batch) -> np.ndarray:
        outputs(parts, batch)
        features_BH: np.ndarray = _of_one_token(here.fed, batch).float().cpu().numpy()
        return features_BH

    hook = layer.register_forward_pre_hook(remember)
    try:
        with autocast(bench.care.precision, bench.care.device):
            features = list(run_batches(features_of, bench.parts, batches, device=bench.care.device))
    finally:
        hook.remove()
    place = {id_: position for position, id_ in enumerate(id_ for batch in batches for id_ in batch.ids)}
    return np.concatenate(features)[[place[int(id_)] for id_ in bench.prepared.splits["train"].ids_N[rows]]]


def _batches(bench: Bench, rows: np.ndarray) -> tuple[list[Batch], Callable[[Parts, Batch], Any]]:
    """Return batches of rows of like length, and what gives the outputs; frozen layers that are stored are not computed again."""
    split, most = bench.prepared.splits["train"], bench.recipe.evaluate.max_batch_tokens
    if bench.feed is None:
        return list(batches_of(bench.work, split, rows, most)), bench.work.outputs
    load = bench.feed.loading(lambda chosen, epoch: bench.work.collate([split.row(int(row)) for row in chosen]))
    order = evaluation_order(split.longest_window_N[rows], max_tokens=most)
    return [load(rows[chosen], 0) for chosen in order], bench.feed.going_on(bench.work.outputs)


def _of_one_token(fed: torch.Tensor, batch: Batch) -> torch.Tensor:
    if fed.ndim == 2:
        return fed
    last_W = batch.inputs["attention_mask"].sum(1).to(fed.device) - 1
    return fed[torch.arange(len(fed), device=fed.device), last_W]
