"""Ordinal classification: classes in an order, such as one to five stars, asked as a row of thresholds.

B rows, C classes in ascending order, C - 1 thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from luthier.core import files
from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.work import Answer, Batch, Outputs, Parts, Term, Terms
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.section import DataSection
from luthier.losses.loss import Loss
from luthier.metrics.answered import Answered
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import ClassWork, Task
from luthier.tasks.text.windows import mean_of_windows
from luthier.tasks.text_classification import TextClassification, TextClassificationWork

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told

SHOWN = 8
PLAIN = TextClassification(problem="single-label")


@tasks.add
class OrdinalClassification(Task):
    """Which of several classes in an order a text has; numbers are ordered by size, words as `data.labels` lists them.

    The model is asked at each class but the last, given that the text is not below it: is it above? A class has the probability
    that all thresholds below it are passed and its own is not; probabilities fall into order by themselves.

    Reference: continuation ratios, as trained by CORN: Shi, Cao and Raschka, https://arxiv.org/abs/2111.08851
    """

    primary_metric = "qwk"
    smaller_is_better: ClassVar[tuple[str, ...]] = ("loss", "ece", "mae")
    ordered: ClassVar[bool] = True
    head_gives: ClassVar[Literal["scores", "thresholds"]] = "thresholds"

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows.

        Raises:
            ConfigError: if a row is to have several labels.
            DataError: if the order of the classes is not known.
        """
        if data.label_separator is not None:
            raise ConfigError([Fault("data.label_separator", "a row has one class of an order", "leave data.label_separator out")])
        prepared = PLAIN.prepare(data, model)
        require_order(prepared.labels, data.labels)
        return prepared

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> OrdinalClassificationWork:
        """Return the work on prepared rows; any loss over classes is one over the probabilities that the thresholds give.

        Raises:
            ConfigError: if the loss wants more than the probabilities of the classes.
        """
        if loss is not None and (loss.r_drop or loss.cosine_scale is not None):
            key, what = ("r_drop", "passes a text twice") if loss.r_drop else ("type", "wants a head of cosines")
            raise ConfigError([Fault(f"loss.{key}", f"{what}, and thresholds are asked once", "use loss=cross-entropy or focal")])
        return OrdinalClassificationWork(PLAIN.start(prepared, data=data, loss=loss))

    def restore(self, folder: Path) -> tuple[OrdinalClassificationWork, Parts]:
        """Return the work and the model saved in `folder`."""
        texts, parts = PLAIN.restore(folder)
        return OrdinalClassificationWork(texts), parts

    def reopen(self, folder: Path) -> OrdinalClassificationWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        return OrdinalClassificationWork(PLAIN.reopen(folder))


def require_order(labels: Sequence[str], listed: Sequence[str] | None) -> None:
    """Refuse classes whose order nobody said: words that are not listed, or that the list leaves out.

    Args:
        labels: The classes of the rows, those that are listed first.
        listed: `data.labels`.

    Raises:
        DataError: if the order is not known.
    """
    unlisted = [label for label in labels if label not in (listed or ())]
    shown = ", ".join(unlisted[:SHOWN]) + (" ..." if len(unlisted) > SHOWN else "")
    fix = f"list all, lowest first: data.labels=[{', '.join([*(listed or ()), *unlisted][:SHOWN])}]"
    if listed and unlisted:
        raise DataError(f"the rows have classes that data.labels does not list: {shown}", where="data.labels", fix=fix)
    if unlisted and not _ascend(labels):
        raise DataError(f"the classes are no numbers, so their order is not known: {shown}", where="data.labels", fix=fix)


def _ascend(labels: Sequence[str]) -> bool:
    try:
        return bool((np.diff(np.array(labels, np.float64)) > 0).all())
    except ValueError:
        return False


def class_log_probabilities(logits_BC: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each class, `(B, C)`: every threshold below it is passed, its own is not.

    Args:
        logits_BC: Threshold c stands in column c + 1; the first column is not used.
    """
    import torch
    from torch.nn import functional

    passed_BT, nothing_B1 = functional.logsigmoid(logits_BC[:, 1:]).cumsum(1), torch.zeros_like(logits_BC[:, :1])
    stopped_BT = functional.logsigmoid(-logits_BC[:, 1:])
    return torch.cat([nothing_B1, passed_BT], 1) + torch.cat([stopped_BT, nothing_B1], 1)


@dataclass(frozen=True)
class OrdinalClassificationWork(ClassWork):
    """Ordinal classification with known classes and tokenizer.

    Args:
        texts: What knows texts: tokens, batches, windows, labels, saving.
    """

    texts: TextClassificationWork

    @property
    def loss(self) -> Loss:
        """The loss over the classes."""
        return self.texts.loss

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the summed class weights of the rows."""
        return self.texts.weights(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the loss over the log-probabilities of the classes."""
        import torch

        logits_BC = mean_of_windows(parts["model"].module(**batch.inputs).logits, batch)
        labels, weights = batch.targets["labels"], self.texts.class_weights
        weight_C = None if weights is None else torch.tensor(weights, device=labels.device)
        value = self.loss(class_log_probabilities(logits_BC.float()), labels, weight_C)
        return {"loss": Term(value.sum, value.weight)}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the log-probabilities of the classes."""
        from luthier.losses.distillation.told import Classes

        return {"loss": Classes(class_log_probabilities(mean_of_windows(given.logits, batch).float()))}

    def outputs(self, parts: Parts, batch: Batch) -> Outputs:
        """Return the log-probability of each class; a softmax over them gives the probabilities back."""
        import torch

        plain = self.texts.outputs(parts, batch)
        return Outputs(plain.ids, class_log_probabilities(torch.from_numpy(plain.logits_BC)).numpy(), plain.targets)

    def answered(self, outputs: Outputs) -> Answered:
        """Return outputs with their truth, as classes in an order."""
        return replace(self.texts.answered(outputs), ordered=True)

    def save(self, parts: Parts, folder: Path) -> None:
        """Write model and tokenizer, and that they are of this task."""
        self.texts.save(parts, folder)
        self._name_task(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        self.texts.save_settings(folder)
        self._name_task(folder)

    def _name_task(self, folder: Path) -> None:
        files.write_json(folder / SETTINGS, {**read_settings(folder), "task": OrdinalClassification.registered_name})

    # What follows has to do with texts alone.

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the classes in their order."""
        return self.texts.classes

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows."""
        return self.texts.num_told(batch)

    @property
    def draws(self) -> bool:
        """Whether `item` draws from its generator."""
        return self.texts.draws

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the classifier and the names of its new parameters."""
        return self.texts.parts(model)

    def item(self, row: Row, rng: np.random.Generator) -> Row:
        """Return the row with its texts changed where `data.augment` says so."""
        return self.texts.item(row, rng)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one padded batch."""
        return self.texts.collate(rows)

    def embeddings(self, parts: Parts, batch: Batch) -> np.ndarray:
        """Return one vector per row."""
        return self.texts.embeddings(parts, batch)

    def answers(self, outputs: Outputs) -> list[Answer]:
        """Return the most probable class of each row, with all probabilities."""
        return self.texts.answers(outputs)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts as rows."""
        return self.texts.encode(texts, pairs)

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return labelled rows of other files."""
        return self.texts.read_rows(data)

    def describe(self) -> dict[str, Any]:
        """Return labels in their order, lengths and loss."""
        return self.texts.describe()
