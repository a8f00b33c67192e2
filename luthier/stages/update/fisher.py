"""The Fisher information of an old run's weights on its old rows, computed once and kept in the old run's folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.core import files
from luthier.core.errors import RunStopped
from luthier.core.work import Parts
from luthier.models import pretrained
from luthier.stages.update.old_run import OldRun
from luthier.tasks.task import ClassWork
from luthier.training.retention.fisher import Fisher, diagonal_fisher

log = logging.getLogger("luthier")
FOLDER, WEIGHTS, FACTS = "fisher", "fisher.safetensors", "facts.json"


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
        log.info("Fisher information of the old weights on %d old rows: kept in %s", facts["rows"], folder)
    except (OSError, RunStopped) as error:
        log.warning("the Fisher information cannot be kept in %s (%s); it is computed again each time", folder, str(error).splitlines()[0])


def _computed(old: OldRun, num_rows: int, device: str) -> Fisher:
    split = old.prepared.splits["train"]
    work, parts = old.restored()
    assert isinstance(work, ClassWork)
    module = parts["model"].module.to(device).eval()
    rows = np.unique(np.linspace(0, len(split) - 1, min(len(split), num_rows)).astype(int))

    def losses() -> Iterator[Callable[[], Tensor]]:
        for row in rows:
            yield partial(_drawn_loss, work, parts, split.row(int(row)), device)

    return diagonal_fisher(dict(module.named_parameters()), losses())


def _drawn_loss(work: ClassWork, parts: Parts, row: Any, device: str) -> Tensor:
    """Return the negative log-probability of an answer drawn from the model's own, the same draw each time for a row."""
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
