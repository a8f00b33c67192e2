"""The teacher of a run: opened, compared with what the student learns, and frozen. It is no part of the run: no checkpoint holds it.

B rows, C classes, S supervised tokens, E width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core import files
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.model_folder import SETTINGS
from luthier.core.run_folder import RunFolder
from luthier.core.work import Batch, Part, Parts
from luthier.data.prepared import Prepared
from luthier.losses.distillation.words import Scored
from luthier.models import pretrained
from luthier.models.causal import load_decoder
from luthier.models.packed import keeps_apart
from luthier.recipe import Recipe
from luthier.serve.predictor import Predictor, with_adapter
from luthier.tasks.task import ClassWork, Work
from luthier.tasks.text.decoder import Decoder
from luthier.training.precision import arithmetic

KEY = "distill.teacher"
FROM_FILE = "luthier predict TEACHER --data ROWS --out answers.jsonl, and distill.logits=answers.jsonl"


@dataclass(frozen=True)
class Teacher:
    """A frozen model in evaluation mode, with the vocabulary and the labels of the student.

    Args:
        parts: Its one part, `model`.
        work: The task at work, where it answers with classes.
        order: Place of each of the student's labels among the teacher's.
    """

    parts: Parts
    work: ClassWork | None
    order: tuple[int, ...] = ()

    @property
    def module(self) -> Any:
        """The model."""
        return self.parts["model"].module

    def logits(self, batch: Batch) -> Tensor:
        """Return its scores of a batch of the student, `(B, C)`, in the order of the student's labels."""
        assert self.work is not None
        known = set(self.work.tokenizer.model_input_names)  # type: ignore[attr-defined]
        given = replace(batch, inputs={name: tensor for name, tensor in batch.inputs.items() if name in known})
        device = str(batch.inputs["input_ids"].device)
        with torch.inference_mode(), arithmetic(self.parts, device):
            found_BC = torch.from_numpy(self.work.outputs(self.parts, given).logits_BC)
        return self.in_order(found_BC).to(device)

    def in_order(self, logits_BC: Tensor) -> Tensor:
        """Return scores in the order of the student's labels."""
        return logits_BC[:, list(self.order)]

    def words(self, batch: Batch) -> Scored:
        """Return its states before the supervised tokens of a batch, `(S, E)`, and its vocabulary head."""
        with torch.inference_mode(), arithmetic(self.parts, str(batch.targets["at"].device)):
            states_SE = self.module.states(batch.inputs, batch.targets["at"])
        head = self.module.model.get_output_embeddings()
        return Scored(states_SE.clone(), head.weight.detach(), None if head.bias is None else head.bias.detach())


def folder_of(path: str) -> Path:
    """Return the model folder of a run, or a model folder or hub id as it is.

    Raises:
        SetupError: if there is none, or the run is not finished.
    """
    run = RunFolder(Path(path))
    if run.recipe.is_file():
        run.require_finished()
        return run.model
    try:
        return Path(pretrained.locate(path))
    except SetupError as error:
        fix = "name a finished run, a folder saved with save_pretrained, or a hub id; luthier runs lists the runs here"
        raise SetupError(error.what, where=KEY, fix=fix) from error


def folders_of(path: str) -> list[Path]:
    """Return the folders that hold a teacher's weights: its own, and that of the base where an adapter stands beside one.

    Raises:
        SetupError: if there is none.
    """
    folder = folder_of(path)
    settings = _settings(folder)
    base = settings.get("model", {}).get("path") if "adapter" in settings else None
    return [folder, *([Path(pretrained.locate(base))] if base else [])]


def fingerprint_of_teacher(path: str) -> str:
    """Return a sha256 that changes with the files of the teacher, and of the base that its adapter stands beside."""
    folder, *base = folders_of(path)
    own = {file.name: files.sha256_file(file) for file in sorted(folder.iterdir()) if file.is_file()} if folder.is_dir() else {}
    revision = {} if own else {"revision": str(getattr(pretrained.load_config(path), "_commit_hash", None))}
    return pretrained.fingerprint_of(path, own | revision | {f"base {one.name}": pretrained.fingerprint(str(one)) for one in base})


def open_teacher(recipe: Recipe, prepared: Prepared, work: Work, device: str) -> Teacher:
    """Load the teacher that a recipe names, and freeze it.

    Args:
        recipe: The recipe, with `distill.teacher`.
        prepared: The rows that the student learns from.
        work: The student's task at work.
        device: Where it is computed.

    Raises:
        ConfigError: if it does another task, has other labels or another vocabulary, or takes shorter texts.
        SetupError: if it cannot be loaded.
    """
    assert recipe.distill is not None and recipe.distill.teacher is not None
    path = recipe.distill.teacher
    folder = folder_of(path)
    try:
        tokenizer, theirs, parts = _opened(folder, recipe)
    except SetupError as error:
        raise SetupError(error.what, where=KEY, fix=error.fix) from error
    _refuse_other_words(path, tokenizer, work, prepared, parts)
    order = _order_of_labels(path, theirs, work) if isinstance(theirs, ClassWork) else ()
    if isinstance(theirs, ClassWork):
        Predictor(theirs, parts)  # computes as fast as when it answers
    module = parts["model"].module.to(device).eval().requires_grad_(False)
    return Teacher({"model": Part(module, "frozen")}, theirs if isinstance(theirs, ClassWork) else None, order)


def _opened(folder: Path, recipe: Recipe) -> tuple[Any, Work | None, Parts]:
    """Return the tokenizer, the work where there is one, and the parts."""
    settings, task = _settings(folder), recipe.task
    if settings.get("task", task.registered_name) != task.registered_name:
        what = f"the teacher was trained for {settings['task']}, the student is for {task.registered_name}"
        raise ConfigError([Fault(KEY, what, f"name a run of {task.registered_name}")])
    if "adapter" in settings:
        _, work, parts = with_adapter(type(task)(), folder, settings)
        return work.tokenizer, work, parts  # type: ignore[attr-defined]
    if task.answers_with == "text" and not settings:
        tokenizer = pretrained.open_tokenizer(str(folder))
        return tokenizer, None, {"model": Part(Decoder(load_decoder(folder)), "frozen")}
    work, parts = type(task)().restore(folder)
    return work.tokenizer, work, parts  # type: ignore[attr-defined]


def _refuse_other_words(path: str, tokenizer: Any, work: Any, prepared: Prepared, parts: Parts) -> None:
    """Refuse a teacher that reads other tokens, or fewer of them, than the student."""
    mine, theirs = work.tokenizer.get_vocab(), tokenizer.get_vocab()
    elsewhere = FROM_FILE if isinstance(work, ClassWork) else "begin with a model that has the teacher's tokenizer: model.path=..."
    if mine != theirs:
        more = len(mine) - len(theirs)
        grown = more > 0 and all(mine.get(word) == number for word, number in theirs.items())
        what = f"the teacher {path} has another vocabulary ({len(theirs):,} tokens) than the student ({len(mine):,})"
        raise ConfigError([Fault(KEY, what, f"model.extend_vocabulary=false leaves out {more} new characters" if grown else elsewhere)])
    config: Any = parts["model"].module.config
    most = pretrained.max_length(tokenizer, config)
    longest = int(prepared.splits["train"].longest_window_N.max())
    if most < longest:
        what = f"the teacher {path} takes {most} tokens, and the rows have up to {longest}"
        raise ConfigError([Fault("data.max_length", what, f"data.max_length={most}")])
    if getattr(work, "packing", False) and not keeps_apart(parts["model"].module.model, prepared.max_length):
        what = f"rows laid end to end would see each other in the teacher, a {config.model_type}"
        raise ConfigError([Fault("data.packing", what, "data.packing=false pads them instead")])


def _order_of_labels(path: str, theirs: Any, work: Any) -> tuple[int, ...]:
    if theirs.multi_label != work.multi_label:
        kinds = {True: "several labels a text", False: "one class a text"}
        what = f"the teacher {path} gives {kinds[theirs.multi_label]}, the rows have {kinds[work.multi_label]}"
        raise ConfigError([Fault(KEY, what, "name a teacher that was trained on rows of this kind")])
    if set(theirs.labels) != set(work.labels):
        what = f"the teacher {path} has the labels {_shown(theirs.labels)}, the rows have {_shown(work.labels)}"
        raise ConfigError([Fault(KEY, what, "name a teacher that was trained on these labels: luthier train with the same data")])
    return tuple(theirs.labels.index(label) for label in work.labels)


def _shown(labels: tuple[str, ...], most: int = 6) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / SETTINGS
    return dict(files.read_json(file)) if file.is_file() else {}
