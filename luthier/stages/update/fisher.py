"""The Fisher information of an old run's weights: on its old rows, kept in its folder, or on new rows, kept in the new folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.core import files
from luthier.core.errors import RunStopped, SetupError
from luthier.core.run_folder import RunFolder
from luthier.core.work import Parts
from luthier.data.prepared import PreparedSplit, Row
from luthier.models import pretrained
from luthier.recipe import Recipe
from luthier.stages.update.old_run import OldRun
from luthier.tasks.task import ClassWork, Work
from luthier.training.retention.fisher import Fisher, diagonal_fisher
from luthier.training.retention.replay import learnt_of

if TYPE_CHECKING:
    from luthier.stages.layout.begin import Bench

log = logging.getLogger("luthier")
FOLDER, WEIGHTS, FACTS = "fisher", "fisher.safetensors", "facts.json"
MEETING = 16
"""Rows whose information is taken together where they meet in the loss."""


def fisher_of(old: OldRun, num_rows: int, device: str) -> Fisher:
    """Return the Fisher information of an old run's weights by name, from its folder where it is there.

    Args:
        old: The run.
        num_rows: Old training rows that are looked at, evenly spread.
        device: Where it is computed.

    Raises:
        OldRowsGone: if it has to be computed and the rows cannot be read.
    """
    folder = old.run.path / FOLDER / f"{num_rows}-rows"
    facts = {"model": pretrained.fingerprint(str(old.model)), "rows": num_rows}
    if (folder / FACTS).is_file() and files.read_json(folder / FACTS) == facts:
        log.info("Fisher information of the old weights: reused from %s", folder)
        return load_file(folder / WEIGHTS)
    found = {name: values.cpu() for name, values in _computed(old, num_rows, device).items()}
    _keep(folder, found, facts)
    return found


def _keep(folder: Path, found: Fisher, facts: dict[str, Any]) -> None:
    """Write it into the old run's folder; where that cannot be written it is computed again another time."""

    def fill(aside: Path) -> None:
        save_file({name: values.contiguous() for name, values in found.items()}, aside / WEIGHTS)
        files.write_json(aside / FACTS, facts)

    try:
        files.make_folder(folder, fill)
        log.info("Fisher information of the old weights on at most %d old rows: kept in %s", facts["rows"], folder)
    except (OSError, RunStopped) as error:
        log.warning("the Fisher information cannot be kept in %s (%s); it is computed again each time", folder, str(error).splitlines()[0])


def _computed(old: OldRun, num_rows: int, device: str) -> Fisher:
    split = old.prepared.splits["train"]
    work, parts = old.restored()
    module = parts["model"].module.to(device).eval()

    loss_of: Callable[..., Tensor] = _drawn_loss if isinstance(work, ClassWork) else _own_loss
    losses = (partial(loss_of, work, parts, rows, device) for rows in _spread(split, num_rows, old.recipe))
    return diagonal_fisher(dict(module.named_parameters()), losses)


def with_fisher_of_new_rows(bench: Bench, run: RunFolder, *, resumed: bool) -> Bench:
    """Return the bench with the information of its weights on the new rows, where `keep.fisher_mask.rows` is new.

    It is computed before the first step, with the labels that the rows have, and kept in the run folder for a resume.

    Raises:
        SetupError: if a resumed run has lost it.

    Reference: Child-Tuning-D, Xu et al., https://arxiv.org/abs/2109.05687
    """
    keeping, world = bench.keeping, bench.care.world
    mask = None if keeping is None else keeping.section.fisher_mask
    if keeping is None or mask is None or mask.rows != "new":
        return bench
    folder = run.path / FOLDER
    if world.rank == 0 and not (folder / WEIGHTS).is_file():
        if resumed:
            raise SetupError("the Fisher information that the run began with is gone", where=str(folder), fix="begin a new run")
        found = {name: values.cpu().contiguous() for name, values in _of_new_rows(bench, keeping.section.fisher_rows).items()}
        files.make_folder(folder, lambda aside: save_file(found, aside / WEIGHTS))
    world.agreed(0)
    return replace(bench, keeping=replace(keeping, fisher_of_new=load_file(folder / WEIGHTS)))


def _of_new_rows(bench: Bench, num_rows: int) -> Fisher:
    split, module = bench.prepared.splits["train"], bench.parts["model"].module
    trained, mode = {name: p for name, p in module.named_parameters() if p.requires_grad}, module.training
    module.eval()
    spread = _spread(split, num_rows, bench.recipe)
    losses = (partial(_own_loss, bench.work, bench.parts, rows, bench.care.device) for rows in spread)
    found = diagonal_fisher(trained, losses)
    module.train(mode)
    return found


def _spread(split: PreparedSplit, num_rows: int, recipe: Recipe) -> list[list[Row]]:
    """Return some rows of a split, evenly spread: one by one, or as many as meet in the loss."""
    rows = [split.row(int(row)) for row in np.unique(np.linspace(0, len(split) - 1, min(len(split), num_rows)).astype(int))]
    size = 1 if recipe.task.adds_up() else MEETING
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _own_loss(work: Work, parts: Parts, rows: list[Row], device: str) -> Tensor:
    """Return the loss of the rows' own answers, where to draw others would take long."""
    terms = work.losses(parts, work.collate(rows).to(device))
    summed = [(1.0 if name == "loss" else terms[name].coefficient) * terms[name].sum for name in learnt_of(terms)]
    return torch.stack(summed).sum()


def _drawn_loss(work: ClassWork, parts: Parts, rows: list[Row], device: str) -> Tensor:
    """Return the negative log-probability of an answer drawn from the model's own, the same draw each time for a row."""
    (row,) = rows
    batch = work.collate([row]).to(device)
    with torch.no_grad():
        probability_C = work.answered(work.outputs(parts, batch)).probabilities_NC[0]
    dice, labels = np.random.default_rng((row.id, len(probability_C))), batch.targets["labels"]
    if labels.ndim == 1:
        drawn = np.array([dice.choice(len(probability_C), p=probability_C / probability_C.sum())])
    else:
        drawn = (dice.random(len(probability_C)) < probability_C)[None]
    targets = {**batch.targets, "labels": torch.as_tensor(drawn, dtype=labels.dtype, device=labels.device)}
    return work.losses(parts, replace(batch, targets=targets))["loss"].sum
