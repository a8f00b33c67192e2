"""Answers from a run folder or a model folder, in the arithmetic that measured it, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from luthier.adapters import adapters
from luthier.adapters.adapter import Adapter
from luthier.core import files
from luthier.core.allocator import keep_freed_memory
from luthier.core.config import build_registered
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.run_folder import RunFolder
from luthier.core.work import Answer, Outputs, Parts
from luthier.data.batches import evaluation_order
from luthier.models import pretrained
from luthier.models.attention import attend_tiled
from luthier.models.lean.activation import swap_activations
from luthier.models.lean.bert import make_lean
from luthier.models.quantized import dequantize
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import AnsweringWork, ClassWork, Task, Work, WritingWork
from luthier.training.inference import merged, most_tokens, run_batches
from luthier.training.precision import autocast, choose_device, choose_precision, halve_frozen

CHUNK = 1024
MAX_TOKENS = 2048
PROBES = ("two texts that differ", "in length")


class Predictor:
    """A trained model that answers texts.

    Args:
        work: The task at work.
        parts: Its modules.
        precision: Arithmetic of the products: fp32, as the run was measured in, bf16, or auto for the faster one here.
    """

    def __init__(self, work: Work, parts: Parts, *, precision: str = "fp32") -> None:
        self.work, self.parts = work, parts
        self.device = choose_device()
        self.precision = choose_precision(precision, self.device)
        for part in parts.values():
            part.module.to(self.device)
        keep_freed_memory()
        self._make_lean()

    @classmethod
    def open(cls, path: str | Path, *, precision: str = "fp32") -> Predictor:
        """Load the model of a run folder, or of any folder or hub id with a classifier.

        Args:
            path: Run folder, model folder or hub id.
            precision: fp32, bf16 or auto.

        Raises:
            SetupError: if there is none.
        """
        folder = Path(path)
        run = RunFolder(folder)
        if run.recipe.is_file():
            if not run.model.is_dir():
                run.require_finished()
            run.require_one_task()
            folder = run.model
        elif not folder.is_dir() and (folder.parts[:1] == ("runs",) or str(path).startswith((".", "/", "~"))):
            raise SetupError(f"no run folder and no model at '{path}'", fix="list the runs here with: luthier runs")
        elif not (folder / "adapter_config.json").is_file():
            folder = Path(pretrained.locate(str(path)))
        elif not (folder / SETTINGS).is_file():
            raise SetupError(f"'{path}' is an adapter without a head", fix="load it with plain peft, or train a run from its base")
        settings = read_settings(folder) if (folder / SETTINGS).is_file() else {"task": task_of_plain(folder)}
        task = tasks.get(settings["task"])()
        work, parts = with_adapter(task, folder, settings)[1:] if "adapter" in settings else task.restore(folder)
        return cls(work, parts, precision=precision)

    def writing(self, **manner: Any) -> Predictor:
        """Return a predictor that writes in another manner, such as `temperature=0.8`; the model is the same.

        Raises:
            ConfigError: if the model answers with classes, or a value is out of its range.
        """
        if isinstance(self.work, WritingWork):
            return Predictor(self.work.writing(**manner), self.parts, precision=self.precision)
        what = "the model writes no text"
        raise ConfigError([Fault(f"--{name.replace('_', '-')}", what, "leave it out") for name in manner])

    def answer(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> Iterator[Answer]:
        """Yield the answer to each text, in order; memory does not grow with their number.

        Args:
            texts: Any number of texts.
            pairs: Second texts, where the model was trained on pairs.
        """
        for chunk in _chunks(texts, pairs):
            if isinstance(self.work, AnsweringWork):
                yield from self.work.answers(self.outputs(*chunk))
            else:
                yield from self._written(*chunk)

    def _make_lean(self) -> None:
        """Compute as the training did that measured the model."""
        work = self.work
        if self.device != "cpu":
            return
        for part in self.parts.values():
            attend_tiled(part.module)
            swap_activations(part.module)
        if not isinstance(work, AnsweringWork):
            return
        answers = self._probed if isinstance(work, ClassWork) else None
        for part in self.parts.values():
            make_lean(part.module, answers)

    def _probed(self) -> np.ndarray:
        """Return the logits of two texts."""
        batch = self.work.collate(list(self.work.encode(PROBES)))
        probed: Outputs = next(run_batches(self.work.outputs, self.parts, [batch]))
        return probed.logits_BC

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any:
        """Return what the model says of some texts, in their order."""
        rows = list(self.work.encode(texts, pairs))
        lengths = np.array([sum(map(len, row.windows)) for row in rows])
        batches = (
            self.work.collate([rows[index] for index in order])
            for order in evaluation_order(lengths, max_tokens=most_tokens(self.device, MAX_TOKENS))
        )
        with autocast(self.precision, self.device):
            return merged(list(run_batches(self.work.outputs, self.parts, batches, device=self.device)))

    def _written(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[Answer]:
        """Yield what the model writes after each prompt."""
        work = self.work
        assert isinstance(work, WritingWork)
        rows = list(work.encode(texts, pairs))
        orders = evaluation_order(np.array([len(row.windows[0]) for row in rows]), max_tokens=MAX_TOKENS)
        batches = (work.prompted([rows[index] for index in order]) for order in orders)
        found = {
            id_: text for one in run_batches(work.written, self.parts, batches, device=self.device, alone=True) for id_, text, _ in one
        }
        yield from (Answer(found[row.id], {}) for row in rows)


def task_of_plain(folder: Path) -> str:
    """Return the task of a model that plain transformers saved: text-generation for a decoder with a vocabulary head.

    Args:
        folder: A model folder, or a hub id.
    """
    file = folder / "config.json"
    names = files.read_json(file).get("architectures") or [] if file.is_file() else []
    return "text-generation" if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) else "text-classification"


def with_adapter(task: Task, folder: Path, settings: dict[str, Any], *, whole: bool = False) -> tuple[Adapter, Work, Parts]:
    """Return the adapter of a run, its work, and the base with the adapter in it.

    Args:
        task: The task.
        folder: The model folder.
        settings: What its `luthier.json` says.
        whole: Whether a base in 4 or 8 bits is made plain weights of the same values.

    Raises:
        ConfigError: if the settings of the adapter are not known here.
    """
    adapter, faults = build_registered(adapters, settings["adapter"], path="adapter")
    if adapter is None:
        raise ConfigError(faults, where=str(folder / SETTINGS))
    work = task.reopen(folder)
    if adapter.wants_rows_apart and getattr(work, "packing", False):
        work = replace(cast(Any, work), packing=False)
    parts, new = work.parts(ModelSection(**settings["model"]))
    if whole:
        dequantize(parts["model"].module)
    adapter.attach(parts["model"].module, new)
    adapter.load(parts["model"].module, folder)
    if settings["base_in_half"]:
        halve_frozen(parts)
    return adapter, work, parts


def _chunks(texts: Iterable[str], pairs: Iterable[str] | None) -> Iterator[tuple[list[str], list[str] | None]]:
    paired = iter(pairs) if pairs is not None else None
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == CHUNK:
            yield chunk, [next(paired) for _ in chunk] if paired is not None else None
            chunk = []
    if chunk:
        yield chunk, [next(paired) for _ in chunk] if paired is not None else None
