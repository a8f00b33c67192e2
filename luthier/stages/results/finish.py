"""What a training leaves: the model folder, reference answers, scores, and the pages a person reads."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.adapters.adapter import sizes_of
from luthier.core import files
from luthier.core.machine import peak_memory_bytes
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.run_folder import RunFolder
from luthier.core.work import Outputs, Parts
from luthier.data.prepared import PreparedSplit
from luthier.explain.card import write_card
from luthier.explain.report import write_report
from luthier.metrics.found import Found
from luthier.models import pretrained
from luthier.models.lean.bert import make_lean
from luthier.stages.layout.begin import Bench
from luthier.stages.results.answered_rows import row_references
from luthier.stages.results.measure import baseline_answers, details_of, full_scores, outputs_of
from luthier.stages.results.written import sample_texts, text_references, with_texts
from luthier.stages.update.forgetting import what_was_forgotten
from luthier.stages.update.keeping import OLD_MODEL
from luthier.tasks.task import ClassWork, RowWork, Task, WritingWork
from luthier.training import checkpoint
from luthier.training.averages import exchanging
from luthier.training.precision import autocast
from luthier.training.state import seed_everything

log = logging.getLogger("luthier")
NUM_REFERENCES = 32


def finish(bench: Bench, run: RunFolder, *, started: float, resumed_from: int | None) -> dict[str, Any]:
    """Save and measure the weights that are kept, and write every file of the run; begins anew where a full disk cut it short.

    Args:
        bench: The training, at its end, with the weights that are kept.
        run: The run folder.
        started: When the command began, in seconds since the epoch.
        resumed_from: Step the training was resumed from, or None.

    Returns:
        The object of `metrics.json`.
    """
    files.make_folder(run.model, lambda folder: save_model(bench, folder))
    if bench.keeping is not None:
        bench.keeping.save_old_model(run.path / OLD_MODEL)
    return write_up(bench, run, training_facts(bench, run, resumed_from), started=started)


def keep_best(bench: Bench, run: RunFolder) -> None:
    """Put the weights that are kept into the parts: the best, else the last, or their average; to be done once."""
    state = bench.saved.state
    averages = exchanging(bench.parts, bench.saved.optimiser)
    if state.best_step is not None and state.best_step != state.step:
        best = checkpoint.require_checkpoint(run.checkpoints, state.best_step)
        checkpoint.load_parts(best, bench.parts)
        if bench.recipe.optim.averages:
            checkpoint.load_optimiser(best, bench.saved.optimiser)
    if averages is not None:
        averages.exchange()  # what is measured and saved from here on


def write_up(bench: Bench, run: RunFolder, facts: dict[str, Any], *, started: float) -> dict[str, Any]:
    """Measure the weights that are kept, and write scores and pages into the folder.

    Args:
        bench: The training, at its end.
        run: Where to.
        facts: What is known of the training itself.
        started: When the command began, in seconds since the epoch.

    Returns:
        The object of `metrics.json`.
    """
    held_out = {name: split for name, split in bench.prepared.splits.items() if name != "train" and len(split)}
    limits: dict[str, Any] = {"max_tokens": bench.recipe.evaluate.max_batch_tokens, "device": bench.care.device}
    outputs = {name: outputs_of(bench.work, bench.parts, split, **limits) for name, split in held_out.items()}
    write_reference(run.reference, bench, outputs)
    base, samples = _untuned(bench, held_out, samples=_samples(bench, held_out, bench.parts))
    answered = {name: _answered(bench, bench.parts, held_out[name], output) for name, output in outputs.items()}
    metrics = facts | {"scores": _scores(bench, answered)} | what_was_forgotten(bench)
    section = bench.recipe.evaluate
    details = {name: details_of(a, held_out[name], section, base.get(name)) for name, a in answered.items()}
    if samples:
        details[headline_split(held_out)]["samples"] = samples
    files.write_json(run.evaluation, details)
    files.write_json(run.metrics, timed(metrics, started))
    write_report(run)
    write_card(run)
    metrics = timed(metrics, started)
    files.write_json(run.metrics, metrics)
    return metrics


def training_facts(bench: Bench, run: RunFolder, resumed_from: int | None) -> dict[str, Any]:
    """Return what is known of the training itself; rates leave out evaluation and saving and count real tokens."""
    state = bench.saved.state
    seconds = max(state.seconds, 1e-9)
    facts: dict[str, Any] = {
        "run": str(run.path),
        **task_facts(bench.recipe.task),
        "steps": state.step,
        "epochs": round(state.step / bench.pace.steps_per_epoch, 4),
        "best_step": state.best_step,
        "stopped_early": state.stopped_early,
        "training_seconds": round(state.seconds, 3),
        "samples_per_second": round(state.samples / seconds, 2),
        "tokens_per_second": round(state.tokens / seconds, 1),
        **_sizes(bench),
    }
    if bench.recipe.adapter is not None:
        facts["parameters"] = sizes_of(bench.parts["model"].module)
    return facts if resumed_from is None else facts | {"resumed_from_step": resumed_from}


def task_facts(task: Task) -> dict[str, Any]:
    """Return what the pages and verbs after the training want to know of a task."""
    found: dict[str, Any] = {"task": task.registered_name, "answers_with": task.answers_with, "primary_metric": task.headline()}
    return {**found, "rows_meet": not task.adds_up()}


def _sizes(bench: Bench) -> dict[str, int]:
    """Return how many numbers the model has, and how many are ever trained: now, or in another turn, which the optimiser knows of."""
    every = [p for part in bench.parts.values() if part.mode == "trained" for p in part.module.parameters()]
    stepped = {id(p) for group in bench.saved.optimiser.param_groups for p in group["params"]}
    trained = sum(p.numel() for p in every if p.requires_grad or id(p) in stepped)
    return {"trained_parameters": trained, "all_parameters": sum(p.numel() for p in every)}


def timed(metrics: dict[str, Any], started: float) -> dict[str, Any]:
    """Return the metrics with the time of the whole command and the largest memory so far."""
    return metrics | {"seconds": round(time.time() - started, 3), "peak_memory_bytes": peak_memory_bytes()}


def save_model(bench: Bench, folder: Path) -> None:
    """Write the trained model; of an adapter only what was trained, with the base named."""
    recipe, work = bench.recipe, bench.work
    if recipe.adapter is None:
        work.save(bench.parts, folder)
        return
    module = bench.parts["model"].module
    work.save_settings(folder)
    recipe.adapter.save(module, folder, base=pretrained.locate(recipe.model.path))
    base_in_half = any(parameter.dtype == torch.bfloat16 for parameter in module.parameters())
    adapted = {
        "adapter": recipe.adapter.as_saved().model_dump(mode="json", exclude={"start_from"}),
        "model": recipe.model.model_dump(mode="json", exclude_none=True),
    }
    files.write_json(folder / SETTINGS, {**read_settings(folder), **adapted, "base_in_half": base_in_half})


def headline_split(splits: Iterable[str]) -> str:
    """Return the split that shows how the model does on rows it has not seen; train where nothing was held out."""
    return next((name for name in ("test", "validation") if name in splits), "train")


def write_reference(path: Path, bench: Bench, outputs: dict[str, Outputs]) -> None:
    """Write 32 inputs with the trained model's answers and logits, from the test rows where there are any."""
    name, work = headline_split(outputs), bench.work
    split = bench.prepared.splits[name]
    if isinstance(work, WritingWork):
        files.write_json_lines(path, text_references(work, bench.parts, split, num=NUM_REFERENCES, device=bench.care.device))
        return
    if isinstance(work, RowWork):
        files.write_json_lines(path, row_references(work, bench.parts, split, num=NUM_REFERENCES, device=bench.care.device))
        return
    assert isinstance(work, ClassWork)
    rows = np.unique(np.linspace(0, len(split) - 1, min(len(split), NUM_REFERENCES)).astype(int))
    chosen = _only(split, rows, bench, outputs.get(name))
    texts, pairs, answers = split.texts(rows), split.pairs(rows), work.answers(chosen)
    lines = []
    for position, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        line = {"id": int(chosen.ids[position]), "text": text, "label": answer.label, "probabilities": answer.probabilities}
        if pairs is not None:
            line["text_pair"] = pairs[position]
        lines.append(line | {"logits": [float(value) for value in chosen.logits_BC[position]]})
    files.write_json_lines(path, lines)


def _only(split: PreparedSplit, rows: np.ndarray, bench: Bench, outputs: Outputs | None) -> Outputs:
    if outputs is None:
        from luthier.training.inference import merged, run_batches

        batch = bench.work.collate([split.row(int(row)) for row in rows])
        outputs = merged(list(run_batches(bench.work.outputs, bench.parts, [batch], device=bench.care.device)))
    place = {int(id_): position for position, id_ in enumerate(outputs.ids)}
    order = [place[int(split.ids_N[row])] for row in rows]
    return Outputs(outputs.ids[order], outputs.logits_BC[order])


def _untuned(
    bench: Bench, held_out: dict[str, PreparedSplit], *, samples: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the untuned model answers, and the samples with its texts beside those of the tuned one."""
    work = bench.work
    if not bench.recipe.evaluate.baseline or not held_out or bench.prepared.multi_label or not bench.recipe.task.has_untuned:
        return {}, samples
    limits: dict[str, Any] = {"max_tokens": bench.recipe.evaluate.max_batch_tokens, "device": bench.care.device}
    with _untuned_parts(bench) as parts:
        if isinstance(work, ClassWork):
            return baseline_answers(work, parts, bench.prepared.splits["train"], held_out, **limits), samples
        answered = {name: _answered(bench, parts, split, outputs_of(work, parts, split, **limits)) for name, split in held_out.items()}
        before = _samples(bench, held_out, parts)
    return answered, [{**sample, "untuned": old["written"]} for sample, old in zip(samples, before, strict=True)]


def _answered(bench: Bench, parts: Parts, split: PreparedSplit, outputs: Any) -> Found:
    """Return what a model answers for a split; one that starts from nothing writes nothing worth scoring before it is trained."""
    found = bench.work.answered(outputs)
    if bench.recipe.model.scratch is not None and parts is not bench.parts:
        return found
    return with_texts(bench.work, parts, split, found, device=bench.care.device)


@contextmanager
def _untuned_parts(bench: Bench) -> Iterator[Parts]:
    """Yield the untuned model: the base of an adapter, else loaded afresh, so that a resumed run has it too."""
    if bench.recipe.adapter is not None and isinstance(bench.work, WritingWork):
        with bench.recipe.adapter.switched_off(bench.parts["model"].module):
            yield bench.parts
        return
    seed_everything(bench.recipe.training.seed)
    parts, _ = bench.work.parts(bench.recipe.model)
    for part in parts.values():
        part.module.to(bench.care.device)
        if bench.care.device == "cpu" and bench.recipe.training.speed.lean_blocks:
            make_lean(part.module)
    only_a_baseline = isinstance(bench.work, ClassWork)  # what is compared row by row is computed as the tuned model was
    with autocast(bench.care.precision, bench.care.device) if only_a_baseline else nullcontext():
        yield parts


def _samples(bench: Bench, held_out: dict[str, PreparedSplit], parts: Parts) -> list[dict[str, Any]]:
    work, settings = bench.work, bench.recipe.task
    if not isinstance(work, WritingWork) or not held_out:
        return []
    split, wanted = held_out[headline_split(held_out)], {"num": getattr(settings, "samples", 0)}
    return sample_texts(work, parts, split, **wanted, most_tokens=getattr(settings, "max_new_tokens", 64), device=bench.care.device)


def _scores(bench: Bench, answered: dict[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    section = bench.recipe.evaluate
    return {name: {key: score.as_dict() for key, score in full_scores(found, section).items()} for name, found in answered.items()}
