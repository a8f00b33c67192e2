"""A short trial on this machine: a model of the right shape with random weights does a few real steps in a process of its own.

It is laid out as a run is, with every means of `training.speed`, so that what a step costs here needs no model of the machine.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core import files
from luthier.core.machine import available_cores, environment, memory_bytes, peak_memory_bytes
from luthier.data.cache import cache_root, content_key
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe, resolve
from luthier.stages.planning.shape import at_depth, depths
from luthier.stages.planning.steps import Steps

NEEDED = ["luthier.stages.running.train", "luthier.stages.results.finish", "sklearn.linear_model", "torch._dynamo"]
TRACKER_PACKAGES = {"tensorboard": "torch.utils.tensorboard"}
ANSWERED = 4  # batches, so that each core has some
SECONDS = 6.0  # of steps; the first of each length is not counted
HEAD_ROWS = 1000
WARMING = 8  # lengths that are gone through first, so that memory is as scattered as in a run
WAY = 2  # of doing the trial; what was kept of another one is not gone by
MOST_TOKENS = 4096  # of a micro-batch whose time is taken; larger ones follow by straight line


@dataclass(frozen=True)
class Trial:
    """What a trial found; lists go by the padded tokens of micro-batches, ascending.

    Args:
        tokens: Padded tokens of the micro-batches that were tried.
        seconds: Median seconds of forward and backward pass of each.
        least: Least seconds of each.
        most: Most seconds of each.
        update_seconds: Median seconds of clipping and the optimiser's step.
        answer_seconds: Seconds of a forward pass alone, per padded token.
        head_seconds: Seconds to start the head on 1,000 rows.
        start_seconds: Seconds to lay everything out.
        process_bytes: Memory of the process before the model.
        peak_bytes: Most memory of the process; of the accelerator, where there is one.
        basis: How it was found.
        is_the_run: Whether the run itself was begun, with its base in 4 or 8 bits where it has one.
    """

    tokens: list[float]
    seconds: list[float]
    least: list[float]
    most: list[float]
    update_seconds: float
    answer_seconds: float
    head_seconds: float
    start_seconds: float
    process_bytes: float
    peak_bytes: float
    basis: str = "measured on layers with random weights"
    is_the_run: bool = False


def libraries(recipe: Recipe) -> float:
    """Import what a training imports; returns the seconds that took."""
    started = time.perf_counter()
    for name in _needed(recipe):
        importlib.import_module(name)
    return time.perf_counter() - started


def trial_of(recipe: Recipe, prepared: Prepared, steps: Steps, layers: int | None, *, fresh: bool) -> Trial:
    """Return what a trial finds, or found before on this machine.

    Args:
        recipe: The recipe with every `auto` decided.
        prepared: Encoded rows.
        steps: The micro-batches of the run.
        layers: Layers of the model.
        fresh: Measure again.
    """
    chosen, sizes = _tried(steps)
    warming = [steps.rows[place] for place in _places(steps, np.linspace(0, 1, WARMING))]
    facts = environment()
    key = content_key(
        {
            "way": WAY,
            "recipe": {name: value for name, value in recipe.as_dict().items() if name not in ("output", "track", "evaluate", "data")},
            "rows": [rows.tolist() for rows in chosen],
            "data": prepared.folder.name,
            "machine": [facts["processor"], facts["packages"], available_cores()],
        }
    )
    kept = cache_root() / "plan" / f"{key}.json"
    if kept.is_file() and not fresh:
        return Trial(**files.read_json(kept))
    found = [_in_process(recipe, prepared, chosen, warming, depth) for depth in depths(layers)]
    trial = _of_whole(found, sizes, layers)
    kept.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(kept, asdict(trial))
    return trial


def _tried(steps: Steps) -> tuple[list[np.ndarray], list[float]]:
    """Return the rows of the micro-batches to try, the last one the largest, and the padded tokens of the others."""
    chosen, tokens = [], []
    for place in _places(steps, (0.1, 0.5, 0.9)):
        rows, padded = steps.rows[place], float(steps.padded_M[place])
        most = max(1, int(len(rows) * min(1.0, MOST_TOKENS / padded)))
        chosen.append(rows[np.linspace(0, len(rows) - 1, most).astype(int)])
        tokens.append(padded * most / len(rows))
    return [*chosen, steps.largest], tokens


def _places(steps: Steps, shares: Iterable[float]) -> list[int]:
    """Return the micro-batches that stand at some shares of the way from the smallest to the largest."""
    order = np.argsort(steps.padded_M, kind="stable")
    return list(dict.fromkeys(int(order[round(share * (len(order) - 1))]) for share in shares))


def _of_whole(found: list[dict[str, Any]], tokens: list[float], layers: int | None) -> Trial:
    """Return the trial of the whole model from those of fewer layers."""

    def grown(name: str) -> Any:
        values = [one[name] for one in found]
        if isinstance(values[0], list):
            return [at_depth(list(pair), layers) for pair in zip(*values, strict=True)]
        return at_depth(values, layers)

    names = ("seconds", "least", "most", "update_seconds", "answer_seconds", "head_seconds", "peak_bytes")
    plain = {name: found[0][name] for name in ("start_seconds", "process_bytes")}
    return Trial(tokens, **{name: grown(name) for name in names}, **plain)


def _needed(recipe: Recipe) -> list[str]:
    return [*NEEDED, *(TRACKER_PACKAGES[name] for name in recipe.track.trackers if name in TRACKER_PACKAGES)]


def _in_process(recipe: Recipe, prepared: Prepared, chosen: list[np.ndarray], warming: list[np.ndarray], depth: int) -> dict[str, Any]:
    context = get_context("forkserver")
    context.set_forkserver_preload(_needed(recipe))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(tried, recipe.as_dict(), prepared.folder, chosen, warming, depth).result()


def tried(recipe: dict[str, Any], folder: Path, chosen: list[np.ndarray], warming: list[np.ndarray], depth: int) -> dict[str, Any]:
    """Lay a shortened model out and do steps on it; runs in a process of its own.

    Args:
        recipe: The recipe with every `auto` decided, as plain data.
        folder: The encoded rows.
        chosen: Rows of the micro-batches; the last one is the largest, whose time is not taken.
        warming: Rows of the micro-batches that go first.
        depth: Layers; 0: all.
    """
    import torch

    from luthier.models.outline import outlined
    from luthier.stages.layout.begin import lay_out
    from luthier.stages.layout.start_head import start_head
    from luthier.stages.running.several import each_task

    process, started = memory_bytes(), time.perf_counter()
    with outlined(depth):
        resolved = resolve(recipe)
        bench = lay_out(resolved, _opened(resolved, folder))
    start = time.perf_counter() - started
    head = sum(start_head(one, HEAD_ROWS) for one in each_task(bench).values())
    stepper = _Stepper(bench)
    answer = stepper.answer(longest := _longest(bench))
    for rows in warming:
        stepper.step(rows)
    taken: list[list[float]] = [[] for _ in chosen[:-1]]
    updates: list[float] = []
    began = time.perf_counter()
    while len(updates) < 4 * len(taken) or (time.perf_counter() - began < SECONDS and len(updates) < 12 * len(taken)):
        for place, rows in enumerate(chosen[:-1]):
            gradient, update = stepper.step(rows)
            taken[place].append(gradient)
            updates.append(update)
    stepper.step(chosen[-1])
    with outlined(depth):
        untuned = bench.work.parts(bench.recipe.model) if bench.recipe.evaluate.baseline else None
    stepper.answer(longest)
    del untuned
    peak = torch.cuda.max_memory_reserved() if bench.care.device != "cpu" else peak_memory_bytes()
    return {
        "seconds": [float(np.median(times)) for times in taken],
        "least": [min(times) for times in taken],
        "most": [max(times) for times in taken],
        "update_seconds": float(np.median(updates)),
        "answer_seconds": answer,
        "head_seconds": head,
        "start_seconds": start,
        "process_bytes": process,
        "peak_bytes": peak,
    }


def _opened(recipe: Recipe, folder: Path) -> Prepared:
    """Return the encoded rows; those of several tasks are found by the recipe, each in a folder of its own."""
    return Prepared.open(folder) if recipe.tasks is None else recipe.task.prepare(recipe.data, recipe.model)


def _longest(bench: Any) -> np.ndarray:
    """Return the longest rows, as many as an evaluation takes at once; of several tasks those of the one with the longest."""
    from luthier.data.batches import evaluation_order

    split = bench.prepared.splits["train"]
    rows = evaluation_order(split.longest_window_N, max_tokens=bench.recipe.evaluate.max_batch_tokens)[0]
    if not split.members:
        return rows
    ends = np.cumsum([len(member) for member in split.members.values()])
    of_task = np.searchsorted(ends, rows, side="right")
    return rows[of_task == of_task[0]]


class _Stepper:
    """Does steps and forward passes of a laid-out run on rows of its training split."""

    def __init__(self, bench: Any) -> None:
        self._bench, self._rule, self._losses = bench, bench.rule, bench.losses
        self._optimiser = bench.saved.optimiser
        self._parameters = [p for group in self._optimiser.param_groups for p in group["params"]]

    def step(self, rows: np.ndarray) -> tuple[float, float]:
        """Do an optimiser step; returns the seconds of its gradient, collation included, and of its update."""
        from luthier.training.precision import autocast

        bench, care = self._bench, self._bench.care
        started = time.perf_counter()
        batch = self._batch(rows)
        self._rule.gradient(self._losses, bench.parts, [batch], autocast(care.precision, care.device), care.world)
        self._wait()
        passed = time.perf_counter()
        care.world.clip(self._parameters, care.max_grad_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._wait()
        return passed - started, time.perf_counter() - passed

    def answer(self, rows: np.ndarray) -> float:
        """Do a forward pass as an evaluation does it; returns its seconds per padded token."""
        from luthier.training.inference import run_batches

        batch = self._batch(rows)
        padded = next(iter(batch.inputs.values())).numel()
        list(run_batches(self._bench.work.outputs, self._bench.parts, [batch], device=self._bench.care.device))
        started = time.perf_counter()
        list(run_batches(self._bench.work.outputs, self._bench.parts, [batch] * ANSWERED, device=self._bench.care.device))
        return (time.perf_counter() - started) / padded / ANSWERED

    def _batch(self, rows: np.ndarray) -> Any:
        split, bench = self._bench.prepared.splits["train"], self._bench
        if split.members:
            from luthier.stages.layout.feeding import loader

            of_task = loader(bench.recipe, split, bench.work)(rows, 0)
            return of_task if bench.care.device == "cpu" else of_task.to(bench.care.device)
        found = [split.row(int(row)) for row in rows]
        batch = bench.work.collate([bench.work.item(row, np.random.default_rng((0, row.id))) for row in found])
        return batch if bench.care.device == "cpu" else batch.to(bench.care.device)

    def _wait(self) -> None:
        import torch

        if self._bench.care.device != "cpu":
            torch.cuda.synchronize()
