"""Text regression: a number for a text or a pair of texts, such as stars, a price, or how alike two sentences are.

B rows, W windows (as many as rows unless long texts were split).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.model_folder import read_settings
from luthier.core.work import Answer, Batch, Part, Parts, RowOutputs, Term, Terms
from luthier.data.augment.augmentation import Augmenter
from luthier.data.columns import TEXT_NAMES
from luthier.data.encode import encode
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.reading import RowFault
from luthier.data.records import Record, column_of, load_records
from luthier.data.section import DataSection
from luthier.data.words import WordMarks
from luthier.losses.loss import Loss
from luthier.metrics.numbers import SCORES, compared_numbers
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.kept import as_fields, as_kept, keep
from luthier.tasks.text.preparation import encode_table
from luthier.tasks.text.records_preparation import Laid, Reader, encoded_splits, prepare_records
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import batch_of_windows, mean_of_windows, rows_of

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told

NUMBER_NAMES = ("score", "label", "stars", "rating", "value", "target", "similarity", "price", "分数", "评分")
PAIR_NAMES = ("text_pair", "sentence2", "text2", "second")
MOST_MISTAKES = 20


@tasks.add
class TextRegression(Task):
    """Which number a text has."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = "spearman"
    smaller_is_better: ClassVar[tuple[str, ...]] = ("mae", "rmse")
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    has_untuned: ClassVar[bool] = False
    has_mean: ClassVar[bool] = True
    error: Literal["squared", "absolute", "huber"] = Field(
        "squared", description="What is minimised: squared errors, absolute ones, or huber, squared where they are small."
    )

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        reader = Reader(
            settings={"task": self.registered_name},
            load=lambda: load_records(data, lambda row: _record(row, data)),
            labels=lambda _: (),
            lay_out=lambda table, tokenizer, longest, _: _laid(table, tokenizer, longest, data),
        )
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> TextRegressionWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if a loss over classes is wanted.
        """
        from luthier.models.pretrained import open_tokenizer

        if loss is not None:
            raise ConfigError([Fault("loss", "losses are over classes, and text-regression has none", "leave it out; see task.error")])
        tokenizer = open_tokenizer(prepared.tokenizer)
        numbers_N = prepared.splits["train"].targets if "train" in prepared.splits else np.zeros(1)
        return TextRegressionWork(
            tokenizer=tokenizer,
            max_length=prepared.max_length,
            stride=data.window_stride if data.long_texts == "windows" else None,
            error=self.error,
            middle=float(numbers_N.mean()),
            spread=float(numbers_N.std()) or 1.0,
            augment=Augmenter(data.augment, WordMarks.of(tokenizer)) if data.augment else None,
        )

    def reopen(self, folder: Path) -> TextRegressionWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        return TextRegressionWork(open_tokenizer(folder), **as_fields(read_settings(folder), KEPT))

    def restore(self, folder: Path) -> tuple[TextRegressionWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.classifier import load_classifier

        return self.reopen(folder), {"model": Part(load_classifier(folder), "frozen")}


KEPT = ("max_length", "stride", "error", "middle", "spread")


@dataclass(frozen=True)
class TextRegressionWork(RowWork):
    """Text regression with a known tokenizer; the model is asked for numbers with mean 0 and spread 1 over the training rows.

    Args:
        tokenizer: A fast tokenizer.
        max_length: Longest window in tokens.
        stride: Tokens that windows share; None cuts long texts instead.
        error: What is minimised.
        middle: Mean of the training numbers.
        spread: Their standard deviation.
        augment: What changes the texts of training rows, or None.
    """

    tokenizer: Any
    max_length: int
    stride: int | None
    error: str
    middle: float
    spread: float
    augment: Augmenter | None = None

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return a model with one output, and its new parameters."""
        from luthier.models.classifier import start_classifier

        loaded = start_classifier(model, ("number",), multi_label=False)
        loaded.model.config.problem_type = "regression"
        return grown_parts(loaded, self.tokenizer)

    def going_on(self, old: TextRegressionWork) -> TextRegressionWork:
        """Return the work on the scale of the old numbers, in which the model answers."""
        return replace(self, middle=old.middle, spread=old.spread)

    @property
    def draws(self) -> bool:
        """Whether `item` draws from its generator."""
        return self.augment is not None

    def item(self, row: Row, rng: np.random.Generator) -> Row:
        """Return the row with its texts changed where `data.augment` says so."""
        return row if self.augment is None else self.augment(row, rng)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the windows of the rows, padded to the longest."""
        import torch

        batch = batch_of_windows(rows, self.tokenizer)
        numbers = {} if rows[0].target is None else {"numbers": torch.tensor([float(row.target) for row in rows], dtype=torch.float32)}
        return replace(batch, targets={**numbers, **batch.targets})

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows."""
        return {"loss": float(len(batch.ids))}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the error over the rows, in units of the spread."""
        from torch.nn import functional

        said_B, wanted_B = self._numbers(parts, batch), (batch.targets["numbers"] - self.middle) / self.spread
        errors: dict[str, Any] = {"squared": functional.mse_loss, "absolute": functional.l1_loss, "huber": functional.huber_loss}
        return {"loss": Term(errors[self.error](said_B, wanted_B, reduction="sum"), said_B.new_tensor(float(len(batch.ids))))}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the numbers of the rows."""
        from luthier.losses.distillation.told import Numbers

        return {"loss": Numbers(self._read(given, batch) * self.spread + self.middle, self.spread)}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows."""
        return self.weights(batch)

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return of each row the number that the model says, and the true one where it is known."""
        said_B = (self._numbers(parts, batch).double() * self.spread + self.middle).cpu().tolist()
        true_B = batch.targets["numbers"].cpu().tolist() if "numbers" in batch.targets else [None] * len(said_B)
        return RowOutputs.of(batch.ids, list(zip(said_B, true_B, strict=True)))

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return errors and correlations, and the rows with the largest errors."""
        said_N, true_N = np.array([one for one, _ in outputs.said]), np.array([other for _, other in outputs.said])
        worst = np.argsort(-np.abs(said_N - true_N), kind="stable")[:MOST_MISTAKES]
        mistakes = [{"id": int(outputs.ids[row]), "truth": float(true_N[row]), "predicted": float(said_N[row])} for row in worst]
        return compared_numbers(outputs.ids, true_N, said_N, primary=TextRegression.primary_metric, details={"mistakes": mistakes})

    def mean_said(self, said: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
        """Return the mean of the numbers."""
        return float(np.mean([number for number, _ in said])), said[0][1]

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return the number of each row."""
        return [Answer(said, {}) for said, _ in outputs.said]

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return the number of each row."""
        return [np.array([said]) for said, _ in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts as rows, numbered from 0."""
        windows = self.stride is not None
        return rows_of(encode(self.tokenizer, texts, pairs, max_length=self.max_length, windows=windows, stride=self.stride or 0))

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files with their numbers, encoded; rows that cannot be used are counted and said."""
        rows = load_records(data, lambda row: _record(row, data))
        return encoded_splits(rows, lambda table: _laid(table, self.tokenizer, self.max_length, data))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.classifier import save_classifier

        save_classifier(parts["model"].module, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, TextRegression.registered_name, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return lengths, error, and the scale of the numbers."""
        return as_kept(self, KEPT)

    def _numbers(self, parts: Parts, batch: Batch) -> torch.Tensor:
        """Return what the model says, `(B,)`, in units of the spread around the middle."""
        return self._read(self.given(parts, batch), batch)

    def _read(self, given: Any, batch: Batch) -> torch.Tensor:
        logits_W1: torch.Tensor = given.logits.float()
        return mean_of_windows(logits_W1, batch)[:, 0]


def _record(row: Record, data: DataSection) -> Record:
    """Return the text, perhaps its pair, and the number of a row."""
    found = {"text": column_of(row, data.text, TEXT_NAMES + ("sentence1", "text1"), key="data.text")}
    pair = column_of(row, data.text_pair, PAIR_NAMES, key="data.text_pair", needed=False)
    written = column_of(row, data.label, NUMBER_NAMES, key="data.label")
    try:
        number = float(written)
    except (TypeError, ValueError):
        raise RowFault(f"label of a wrong type (got {written!r}, wanted a number)") from None
    if not math.isfinite(number):
        raise RowFault("the number is not finite")
    return {**found, **({} if pair is None else {"text_pair": pair}), "number": number}


def _laid(table: pa.Table, tokenizer: Any, longest: int, data: DataSection) -> Laid:
    numbers_N = np.array([json.loads(record)["number"] for record in table["record"].to_pylist()], np.float64)
    if len(numbers_N) and not np.ptp(numbers_N) and len(numbers_N) > 1:
        what = f"all {len(numbers_N)} rows have the number {numbers_N[0]:g}: there is nothing to learn"
        raise DataError(what, where="data.label", fix="name the column with the numbers, such as data.label=stars")
    windows = data.long_texts == "windows"
    return Laid(table, encode_table(tokenizer, table, max_length=longest, windows=windows, stride=data.window_stride), numbers_N)
