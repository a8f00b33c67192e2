"""An ensemble as one thing that answers: its models side by side, what they say together, and how sure they are.

Shapes: M models, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from luthier.core import files
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.work import Answer
from luthier.serve.combining import Stack, answers_of, combined, uncertainty
from luthier.serve.mean_of_rows import mean_of_rows, with_spread
from luthier.serve.predictor import CHUNK, Predictor
from luthier.tasks.task import RowWork

ENSEMBLE = "ensemble.json"


class EnsemblePredictor:
    """Several trained models that answer together.

    Args:
        members: Their predictors, two or more.
        labels: Names of the classes; empty where the answers are no classes.
        how: mean, vote or stack.
        multi_label: Whether a row can have several labels.
        stack: The fitted weights, for how=stack.
        seats: Places of the members whose mean is weighted as one, such as the folds of a cross-validation; none: each alone.
    """

    def __init__(
        self,
        members: list[Predictor],
        labels: tuple[str, ...],
        *,
        how: str,
        multi_label: bool,
        stack: Stack | None = None,
        seats: list[list[int]] | None = None,
    ) -> None:
        self.members, self.labels, self.how, self.multi_label, self.stack = members, labels, how, multi_label, stack
        self.seats = seats or [[place] for place in range(len(members))]

    @classmethod
    def open(cls, folder: str | Path, *, precision: str = "fp32") -> EnsemblePredictor:
        """Load the models of a folder that `luthier ensemble --output` wrote.

        Args:
            folder: The folder.
            precision: fp32, bf16 or auto.

        Raises:
            SetupError: if one of the runs is gone.
        """
        said = files.read_json(Path(folder) / ENSEMBLE)
        gone = [run for run in said["runs"] if not Path(run).is_dir()]
        if gone:
            fix = "put it back, or make the ensemble again: luthier ensemble RUN RUN --output FOLDER"
            raise SetupError(f"the run '{gone[0]}' of the ensemble is gone", where=str(folder), fix=fix)
        stack = Stack(tuple(said["stack"]["weights"]), tuple(said["stack"]["offsets"])) if said["stack"] else None
        members = [Predictor.open(run, precision=precision) for run in said["runs"]]
        given: dict[str, Any] = {name: said[name] for name in ("how", "multi_label", "seats")}
        return cls(members, tuple(said["labels"]), stack=stack, **given)

    @property
    def work(self) -> RowWork | None:
        """The task at work of the first model, where its answers are no classes."""
        work = self.members[0].work
        return work if isinstance(work, RowWork) else None

    def writing(self, **manner: Any) -> EnsemblePredictor:
        """Refuse every manner of writing: an ensemble writes no text.

        Raises:
            ConfigError: always.
        """
        what = "an ensemble writes no text"
        raise ConfigError([Fault(f"--{name.replace('_', '-')}", what, "leave it out") for name in manner])

    def answer(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> Iterator[Answer]:
        """Yield the answer to each text, in order, with how sure the models are; memory does not grow with their number.

        Args:
            texts: Any number of texts.
            pairs: Second texts, where the models were trained on pairs.
        """
        first, second = iter(texts), None if pairs is None else iter(pairs)
        while chunk := list(islice(first, CHUNK)):
            paired = None if second is None else list(islice(second, len(chunk)))
            if self.work is not None:
                yield from self._of_rows(self.work, chunk, paired)
                continue
            yield from self._answers(np.array([self._probabilities(member, chunk, paired) for member in self.members]))

    def _of_rows(self, work: RowWork, texts: list[str], pairs: list[str] | None) -> Iterator[Answer]:
        """Yield what the mean of what the models say decides, with how far they are apart."""
        each = [member.outputs(texts, pairs) for member in self.members]
        own = [cast(RowWork, member.work).answers(said) for member, said in zip(self.members, each, strict=True)]
        for answer, *answers in zip(work.answers(mean_of_rows(work, each)), *own, strict=True):
            yield with_spread(answer, answers)

    def _probabilities(self, member: Predictor, texts: list[str], pairs: list[str] | None) -> np.ndarray:
        return np.array([[answer.probabilities[label] for label in self.labels] for answer in member.answer(texts, pairs)])

    def _answers(self, probabilities_MNC: np.ndarray) -> Iterator[Answer]:
        seated = np.array([probabilities_MNC[places].mean(axis=0) for places in self.seats])
        together_NC = combined(seated, how=self.how, multi_label=self.multi_label, stack=self.stack)
        answer_NC = answers_of(together_NC, multi_label=self.multi_label)
        sure = uncertainty(probabilities_MNC, answer_NC, multi_label=self.multi_label)
        for row, given_C in enumerate(together_NC):
            order = np.argsort(-given_C, kind="stable")
            labels = [self.labels[index] for index in order if answer_NC[row, index]]
            probabilities = {self.labels[index]: round(float(given_C[index]), 6) for index in order}
            told = {name: round(float(value_N[row]), 6) for name, value_N in sure.items()}
            yield Answer(labels if self.multi_label else labels[0], probabilities, told)


def is_ensemble(path: str | Path) -> bool:
    """Whether a folder is an ensemble."""
    return (Path(path) / ENSEMBLE).is_file()


def open_predictor(path: str | Path, *, precision: str = "fp32") -> Predictor | EnsemblePredictor:
    """Load what answers: the ensemble in a folder, else the model of a run folder, a model folder or a hub id.

    Args:
        path: Where it is.
        precision: fp32, bf16 or auto.
    """
    return (EnsemblePredictor if is_ensemble(path) else Predictor).open(path, precision=precision)


def first_run_of(path: str | Path) -> str | Path:
    """Return the first run of an ensemble, whose data section says which columns hold the texts; else the path itself."""
    return str(files.read_json(Path(path) / ENSEMBLE)["runs"][0]) if is_ensemble(path) else path
