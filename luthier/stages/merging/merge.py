"""A run's adapter written into its base: a plain model folder that answers as the run did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from luthier.core import files
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.model_folder import read_settings
from luthier.core.run_folder import RunFolder
from luthier.core.work import Batch, Parts
from luthier.data.prepared import Row
from luthier.serve.predictor import Predictor, with_adapter
from luthier.tasks import tasks
from luthier.tasks.task import AnsweringWork, ClassWork, WritingWork
from luthier.training.inference import run_batches
from luthier.training.precision import autocast

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest difference of a logit, as a share of the largest one (or of 1, if that is more), in the arithmetic of the run."""


def merge_run(run: RunFolder, folder: Path) -> dict[str, Any]:
    """Write the merged model, and compare its logits with those of `reference.jsonl`.

    Args:
        run: A finished run with an adapter.
        folder: Where the model goes; it appears whole or not at all.

    Returns:
        The object that `luthier merge --json` prints.

    Raises:
        ConfigError: if the run has no adapter, its method cannot be merged, or the folder is taken.
        SetupError: if the merged model answers otherwise than the run did.
    """
    settings = read_settings(run.model)
    if "adapter" not in settings:
        raise ConfigError([Fault("RUN", "the run has no adapter to merge", f"its model is whole as it is: {run.model}")])
    if folder.exists() and not _is_model(folder):
        raise ConfigError([Fault("--output", f"'{folder}' is there, and is no model folder", "name another folder")])
    adapter, work, parts = with_adapter(tasks.get(settings["task"])(), run.model, settings, whole=True)
    for part in parts.values():
        part.module.float()
    adapter.merge(parts["model"].module)
    precision = "bf16" if settings["base_in_half"] else "fp32"
    facts: dict[str, Any] = {"run": str(run.path), "model": str(folder), "adapter": adapter.registered_name, "precision": precision}
    if quantized := settings["model"].get("quantize"):
        facts["dequantized"] = quantized

    def fill(aside: Path) -> None:
        work.save(parts, aside)
        facts.update(_compared(aside, files.read_json_lines(run.reference), precision))

    files.make_folder(folder, fill)
    return facts


def _compared(folder: Path, lines: list[dict[str, Any]], precision: str) -> dict[str, Any]:
    """Return how far the logits of a merged model are from those of the run.

    Raises:
        SetupError: if they are too far.
    """
    found = _logits(Predictor.open(folder, precision=precision), lines)
    wanted = np.concatenate([line["logits"] for line in lines])
    difference, allowed = float(np.abs(found - wanted).max()), TOLERANCE[precision] * max(1.0, float(np.abs(wanted).max()))
    if not difference <= allowed:
        what = f"the merged model's logits differ from the run's by {difference:.2g}, and {allowed:.2g} is allowed"
        raise SetupError(what, where="reference.jsonl", fix="serve the run as it is; nothing was written")
    return {"inputs": len(lines), "largest_difference": difference, "allowed": allowed}


def _logits(predictor: Predictor, lines: list[dict[str, Any]]) -> np.ndarray:
    """Return the numbers that the lines of `reference.jsonl` hold, one after the other, as a model gives them now."""
    work = predictor.work
    if isinstance(work, AnsweringWork):
        together = [lines] if isinstance(work, ClassWork) else [[line] for line in lines]
        return np.concatenate([np.ravel(number) for some in together for number in work.numbers(_outputs(predictor, some))])
    assert isinstance(work, WritingWork)
    batches = [work.prompted([Row(line["id"], [np.array(line["tokens"])], None, None)]) for line in lines]

    def write(parts: Parts, batch: Batch) -> Any:
        return work.written(parts, batch, max_new_tokens=1, greedy=True)

    with autocast(predictor.precision, predictor.device):
        found = list(run_batches(write, predictor.parts, batches, device=predictor.device, alone=True))
    return np.concatenate([logits_V[line["top_tokens"]] for [(_, _, logits_V)], line in zip(found, lines, strict=True)])


def _outputs(predictor: Predictor, lines: list[dict[str, Any]]) -> Any:
    pairs = [line["text_pair"] for line in lines] if "text_pair" in lines[0] else None
    return predictor.outputs([line["text"] for line in lines], pairs)


def _is_model(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "config.json").is_file() or not any(folder.iterdir()))
