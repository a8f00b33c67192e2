"""Answers from a run folder or a model folder, in the arithmetic that measured it, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from luthier.core import files
from luthier.core.errors import SetupError
from luthier.core.run_folder import RunFolder
from luthier.core.work import Answer, Outputs, Parts
from luthier.data.batches import evaluation_order
from luthier.models import pretrained
from luthier.models.lean.bert import make_lean
from luthier.tasks import tasks
from luthier.tasks.task import Work
from luthier.training.inference import merged, run_batches
from luthier.training.precision import autocast, choose_device, choose_precision

CHUNK = 1024
MAX_TOKENS = 4096
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
            folder = run.model
        elif not folder.is_dir() and (folder.parts[:1] == ("runs",) or str(path).startswith((".", "/", "~"))):
            raise SetupError(f"no run folder and no model at '{path}'", fix="list the runs here with: luthier runs")
        else:
            folder = Path(pretrained.locate(str(path)))
        settings = folder / "luthier.json"
        name = files.read_json(settings)["task"] if settings.is_file() else "text-classification"
        work, parts = tasks.get(name)().restore(folder)
        return cls(work, parts, precision=precision)

    def answer(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> Iterator[Answer]:
        """Yield the answer to each text, in order; memory does not grow with their number.

        Args:
            texts: Any number of texts.
            pairs: Second texts, where the model was trained on pairs.
        """
        for chunk in _chunks(texts, pairs):
            yield from self.work.answers(self.outputs(*chunk))

    def _make_lean(self) -> None:
        """Compute as the training did that measured the model, where its blocks are of BERT's kind."""
        if self.device != "cpu":
            return
        batch = self.work.collate(list(self.work.encode(PROBES)))

        def answers() -> np.ndarray:
            probed: Outputs = next(run_batches(self.work.outputs, self.parts, [batch]))
            return probed.logits_BC

        for part in self.parts.values():
            make_lean(part.module, answers)

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Outputs:
        """Return the raw scores of some texts, in their order."""
        rows = list(self.work.encode(texts, pairs))
        lengths = np.array([sum(map(len, row.windows)) for row in rows])
        batches = (self.work.collate([rows[index] for index in order]) for order in evaluation_order(lengths, max_tokens=MAX_TOKENS))
        with autocast(self.precision, self.device):
            return merged(list(run_batches(self.work.outputs, self.parts, batches, device=self.device)))


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
