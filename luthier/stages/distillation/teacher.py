"""The teacher of a run: opened, compared with what the student learns, and frozen. It is no part of the run: no checkpoint holds it.

B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from luthier.losses.distillation.told import Classes, Told, YesNo
from luthier.models import pretrained
from luthier.models.causal import load_decoder
from luthier.models.packed import keeps_apart
from luthier.models.seq2seq import load_seq2seq
from luthier.recipe import Recipe
from luthier.serve.predictor import Predictor, with_adapter
from luthier.tasks.task import AnsweringWork, ClassWork, Work
from luthier.tasks.text.decoder import Decoder
from luthier.tasks.text.encoder_decoder import EncoderDecoder
from luthier.training.precision import arithmetic

KEY = "distill.teacher"
TYPES = "token_type_ids"
FROM_FILE = "luthier predict TEACHER --data ROWS --out answers.jsonl, and distill.logits=answers.jsonl"


@dataclass(frozen=True)
class Teacher:
    """A frozen model in evaluation mode, with the vocabulary and the labels of the student.

    Args:
        parts: Its one part, `model`.
        work: The task at work; None for a plain folder that writes.
        order: Place of each of the student's labels among the teacher's, by the name of the loss term.
        reads_types: Whether it is told which of two texts a token belongs to.
    """

    parts: Parts
    work: Any
    order: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reads_types: bool = True

    @property
    def module(self) -> Any:
        """The model."""
        return self.parts["model"].module

    def logits(self, batch: Batch) -> Tensor:
        """Return its scores of a batch of the student, `(B, C)`, in the order of the student's labels."""
        device = str(batch.inputs["input_ids"].device)
        with torch.inference_mode(), arithmetic(self.parts, device):
            found_BC = torch.from_numpy(self.work.outputs(self.parts, self._readable(batch)).logits_BC)
        return self.in_order(found_BC).to(device)

    def in_order(self, logits_BC: Tensor) -> Tensor:
        """Return scores of classes in the order of the student's labels."""
        return logits_BC[:, list(self.order["loss"])]

    def told(self, batch: Batch, student: Any) -> dict[str, Told]:
        """Return what it says of a batch of the student, with the student's labels in their order.

        Args:
            batch: The batch.
            student: The student's task at work, which stands in where the teacher is a plain folder.
        """
        if isinstance(self.work, ClassWork):
            logits_BC = self.logits(batch)
            return {"loss": YesNo(logits_BC) if getattr(self.work, "multi_label", False) else Classes(logits_BC)}
        work, readable = self.work or student, self._readable(batch)
        with torch.no_grad(), arithmetic(self.parts, str(batch.inputs["input_ids"].device)):
            found: dict[str, Told] = work.told(self.parts, work.given(self.parts, readable), readable)
        return {name: one.in_order(self.order[name]) if name in self.order else one for name, one in found.items()}

    def _readable(self, batch: Batch) -> Batch:
        """Return a batch of the student without the types of its tokens, where the teacher knows of none."""
        if self.reads_types:
            return batch
        return replace(batch, inputs={name: tensor for name, tensor in batch.inputs.items() if name != TYPES})


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
    order = _order_of_labels(path, theirs, work) if isinstance(theirs, AnsweringWork) else {}
    if isinstance(theirs, AnsweringWork):
        Predictor(theirs, parts)  # computes as fast as when it answers
    module = parts["model"].module.to(device).eval().requires_grad_(False)
    return Teacher({"model": Part(module, "frozen")}, theirs, order, TYPES in tokenizer.model_input_names)


def _opened(folder: Path, recipe: Recipe) -> tuple[Any, Work | None, Parts]:
    """Return the tokenizer, the work where there is one, and the parts."""
    settings, task = _settings(folder), recipe.task
    if settings.get("task", task.registered_name) != task.registered_name:
        what = f"the teacher was trained for {settings['task']}, the student is for {task.registered_name}"
        raise ConfigError([Fault(KEY, what, f"name a run of {task.registered_name}")])
    if "adapter" in settings:
        _, work, parts = with_adapter(type(task)(), folder, settings)
        return pretrained.open_tokenizer(str(folder)), work, parts
    if task.answers_with == "text" and not settings:
        module: Any = EncoderDecoder(load_seq2seq(folder)) if task.reads_apart else Decoder(load_decoder(folder))
        return pretrained.open_tokenizer(str(folder)), None, {"model": Part(module, "frozen")}
    work, parts = type(task)().restore(folder)
    return pretrained.open_tokenizer(str(folder)), work, parts


def _refuse_other_words(path: str, tokenizer: Any, work: Any, prepared: Prepared, parts: Parts) -> None:
    """Refuse a teacher that reads other tokens, or fewer of them, than the student."""
    mine, theirs = pretrained.open_tokenizer(prepared.tokenizer).get_vocab(), tokenizer.get_vocab()
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


def _order_of_labels(path: str, theirs: Any, work: Any) -> dict[str, tuple[int, ...]]:
    several = [bool(getattr(one, "multi_label", False)) for one in (theirs, work)]
    if several[0] != several[1]:
        kinds = {True: "several labels a text", False: "one class a text"}
        what = f"the teacher {path} gives {kinds[several[0]]}, the rows have {kinds[several[1]]}"
        raise ConfigError([Fault(KEY, what, "name a teacher that was trained on rows of this kind")])
    order = {}
    for name, labels in work.classes.items():
        known = theirs.classes[name]
        if set(known) != set(labels):
            kind = "labels" if name == "loss" else f"labels of {name}"
            what = f"the teacher {path} has the {kind} {_shown(known)}, the rows have {_shown(labels)}"
            alone = [tuple(label for label in one if label not in other) for one, other in ((known, labels), (labels, known))]
            what += "".join(f"; only {who}: {_shown(some)}" for who, some in zip(("the teacher", "the rows"), alone, strict=True) if some)
            raise ConfigError([Fault(KEY, what, "name a teacher that was trained on these labels: luthier train with the same data")])
        order[name] = tuple(known.index(label) for label in labels)
    return order


def _shown(labels: tuple[str, ...], most: int = 6) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / SETTINGS
    return dict(files.read_json(file)) if file.is_file() else {}
