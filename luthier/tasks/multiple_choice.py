"""Multiple choice: which of the choices of a row is right, for a question, a context or both.

B rows, W windows: one for each choice of each row, K choices of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.model_folder import read_settings
from luthier.core.work import Answer, Batch, Part, Parts, RowOutputs, Term, Terms
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.reading import RowFault
from luthier.data.records import Record, column_of, load_records
from luthier.data.section import DataSection
from luthier.losses.loss import Loss
from luthier.metrics.probabilities import mean_as_scores
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.choice_rows import lay_out_choices, written_of
from luthier.tasks.text.choices import ANSWER_NAMES, AnswerRule, Reading, asked, read_asked, windows_of_choices
from luthier.tasks.text.kept import keep, settings_among
from luthier.tasks.text.records_preparation import Reader, encoded_splits, prepare_records
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import batch_of_windows, rows_of

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told

KEPT = ("choices", "answer", "first")
MOST_MISTAKES = 20
NEVER = -1e30
"""Log-probability of a choice that a row has not."""


@tasks.add
class MultipleChoice(Task):
    """Which choice is right; rows can have different numbers of choices."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = "accuracy"
    own_scores: ClassVar[tuple[str, ...]] = ("accuracy",)
    has_untuned: ClassVar[bool] = False
    has_mean: ClassVar[bool] = True
    choices: str | tuple[str, ...] | None = Field(
        None, description="Column with a list of choices, or the columns of the choices in their order; none: found by usual names."
    )
    answer: Reading = Field(
        "auto",
        description="How data.label names the right choice: by its text, letter or number; auto: by whichever fits one choice alone.",
    )
    first: Literal[0, 1] = Field(0, description="Number of the first choice, where choices are named by number.")

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows.

        Raises:
            ConfigError: if texts are to be read in several windows.
        """
        if data.long_texts == "windows":
            raise ConfigError([Fault("data.long_texts", "every choice is a window of its own", "use data.long_texts=truncate")])
        reader = Reader(
            settings={"task": self.registered_name, **self.model_dump(mode="json", include=set(KEPT))},
            load=lambda: load_records(data, lambda row: self.record(row, data)),
            labels=lambda _: (),
            lay_out=lambda table, tokenizer, longest, _: lay_out_choices(table, tokenizer, longest, data),
        )
        return prepare_records(data, model, reader)

    def record(self, row: Record, data: DataSection) -> Record:
        """Return what is kept of a row: what it asks, and which choice is right.

        Raises:
            RowFault: if the row cannot be used.
        """
        question, names = read_asked(row, data, self.choices)
        said = column_of(row, data.label, ANSWER_NAMES, key="data.label")
        right = AnswerRule(self.answer, self.first).place(said, question.choices, names)
        return {"text": question.text, "text_pair": question.pair, **written_of(question), "right": right}

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> MultipleChoiceWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if a loss over classes is wanted, or texts are to be changed.
        """
        from luthier.models.pretrained import open_tokenizer

        if loss is not None:
            what = "losses are over the same classes in every row, and here each row has choices of its own"
            raise ConfigError([Fault("loss", what, "leave it out: the loss is cross-entropy over the choices of a row")])
        if data.augment:
            what = "the question stands before every choice, and data.augment would change it each time in another way"
            raise ConfigError([Fault("data.augment", what, "leave it out")])
        return MultipleChoiceWork(open_tokenizer(prepared.tokenizer), prepared.max_length, self)

    def reopen(self, folder: Path) -> MultipleChoiceWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        found = read_settings(folder)
        return MultipleChoiceWork(open_tokenizer(folder), found["max_length"], settings_among(MultipleChoice, found))

    def restore(self, folder: Path) -> tuple[MultipleChoiceWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.multiple_choice import load_multiple_choice

        return self.reopen(folder), {"model": Part(load_multiple_choice(folder), "frozen")}


@dataclass(frozen=True)
class MultipleChoiceWork(RowWork):
    """Multiple choice with a known tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        max_length: Longest window in tokens.
        task: Says how rows are read.
    """

    reads_columns: ClassVar[bool] = True
    tokenizer: Any
    max_length: int
    task: MultipleChoice

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return a model that gives one number to each choice, and its new parameters."""
        from luthier.models.multiple_choice import start_multiple_choice

        return grown_parts(start_multiple_choice(model), self.tokenizer)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the windows of all choices, padded to the longest; `right` is the window of each row's right choice."""
        import torch

        batch = batch_of_windows(rows, self.tokenizer)
        if rows[0].target is None:
            return batch
        starts_B = np.cumsum([0, *(len(row.windows) for row in rows[:-1])])
        right_B = torch.from_numpy(starts_B + np.array([int(row.target) for row in rows]))
        return replace(batch, targets={"right": right_B, **batch.targets})

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows."""
        return {"loss": float(len(batch.ids))}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the negative log-probability of the right choices among those of their rows."""
        shares_W = self._log_shares(parts, batch)
        return {"loss": Term(-shares_W[batch.targets["right"]].sum(), shares_W.new_tensor(float(len(batch.ids))))}

    def given(self, parts: Parts, batch: Batch) -> Any:
        """Return what the model gives of all choices, each as if it stood alone."""
        return parts["model"].module(**{name: values_WT.unsqueeze(1) for name, values_WT in batch.inputs.items()})

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the log-probabilities of the choices, `(B, K)`; a row with fewer than others has none in their place."""
        import torch

        from luthier.losses.distillation.told import Classes

        owners_W = batch.targets["window_row"]
        counts_B = owners_W.bincount(minlength=len(batch.ids))
        places_W = torch.arange(len(owners_W), device=owners_W.device) - (counts_B.cumsum(0) - counts_B)[owners_W]
        shares_W = log_shares(given.logits.float()[:, 0], owners_W, len(batch.ids))
        shares_BK = shares_W.new_full((len(batch.ids), int(counts_B.max())), NEVER)
        return {"loss": Classes(shares_BK.index_put((owners_W, places_W), shares_W))}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows."""
        return self.weights(batch)

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return the log-probabilities of each row's choices, and its record."""
        shares_W = self._log_shares(parts, batch).float().cpu().numpy()
        records = [json.loads(record) for record in batch.records]
        ends_B = np.cumsum([len(record["choices"]) for record in records])
        return RowOutputs.of(batch.ids, list(zip(np.split(shares_W, ends_B[:-1]), records, strict=True)))

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return how many rows are right, and the wrong answers that the model was surest of."""
        right_N = np.array([int(shares_K.argmax()) == record["right"] for shares_K, record in outputs.said], np.float64)
        wrong = np.flatnonzero(right_N == 0)
        sure = np.array([outputs.said[row][0].max() for row in wrong])
        mistakes = [self._mistake(outputs, int(wrong[place])) for place in np.argsort(-sure, kind="stable")[:MOST_MISTAKES]]
        columns_NK = np.stack([right_N, np.ones_like(right_N)], axis=1)
        return RowSums(outputs.ids, columns_NK, _accuracy, details={"mistakes": mistakes})

    def mean_said(self, said: Sequence[tuple[np.ndarray, Any]]) -> tuple[np.ndarray, Any]:
        """Return the mean of the probabilities of the choices."""
        return mean_as_scores([shares_K for shares_K, _ in said]), said[0][1]

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return the most probable choice of each row with its place from 0, and the probabilities of all by their places."""
        found = []
        for shares_K, record in outputs.said:
            order = np.argsort(-shares_K, kind="stable")
            probabilities = {str(place): round(float(np.exp(shares_K[place])), 6) for place in order}
            found.append(Answer({"choice": record["choices"][order[0]], "index": int(order[0])}, probabilities))
        return found

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return the log-probabilities of each row's choices."""
        return [shares_K for shares_K, _ in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts with their choices as rows, numbered from 0.

        Args:
            texts: Contexts, or questions.
            pairs: Choices of each, as JSON (a list, or `{"question": ..., "choices": [...]}`), or one a line.

        Raises:
            DataError: if there are no choices to choose from.
        """
        fix = 'such as ["yes", "no"], or rows with choices in a file: luthier predict RUN --data FILE'
        if pairs is None:
            raise DataError("a text has no choices to choose from", where="data.text_pair", fix=fix)
        rows = []
        for number, (text, pair) in enumerate(zip(texts, pairs, strict=True), 1):
            try:
                rows.append(asked(text, pair))
            except RowFault as fault:
                raise DataError(f"text {number}: {fault}", where="data.text_pair", fix=fix) from None
        records = [json.dumps(written_of(row), ensure_ascii=False) for row in rows]
        return rows_of(windows_of_choices(self.tokenizer, rows, max_length=self.max_length), records)

    def question(self, row: Record, data: DataSection) -> tuple[str, str | None]:
        """Return the text of a row that is to be answered, and its choices as `encode` reads them."""
        found, _ = read_asked(row, data, self.task.choices)
        return found.text, found.pair

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files with their right choices, encoded; rows that cannot be used are counted and said."""
        rows = load_records(data, lambda row: self.task.record(row, data))
        return encoded_splits(rows, lambda table: lay_out_choices(table, self.tokenizer, self.max_length, data))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.vocabulary import settle_embeddings

        module: Any = parts["model"].module
        settle_embeddings(module)
        module.save_pretrained(folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, MultipleChoice.registered_name, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return the length and how rows are read."""
        read = self.task.model_dump(mode="json")
        return {"max_length": self.max_length, **{key: read[key] for key in KEPT}}

    def _log_shares(self, parts: Parts, batch: Batch) -> torch.Tensor:
        """Return the log-probability of each choice among those of its row, `(W,)`."""
        logits_W = self.given(parts, batch).logits.float()[:, 0]
        return log_shares(logits_W, batch.targets["window_row"], len(batch.ids))

    def _mistake(self, outputs: RowOutputs, row: int) -> dict[str, Any]:
        shares_K, record = outputs.said[row]
        choices, said, right = record["choices"], int(shares_K.argmax()), record["right"]
        sureness = {"probability": float(np.exp(shares_K[said])), "truth_probability": float(np.exp(shares_K[right]))}
        return {"id": int(outputs.ids[row]), "truth": choices[right], "predicted": choices[said], **sureness}


def log_shares(logits_W: torch.Tensor, owners_W: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return a log-softmax over the windows of each row, `(W,)`.

    Args:
        logits_W: One number for each window.
        owners_W: The row of each window.
        num_rows: How many rows there are.
    """
    top_B = logits_W.new_full((num_rows,), float("-inf")).scatter_reduce(0, owners_W, logits_W.detach(), "amax")
    lowered_W = logits_W - top_B[owners_W]
    return lowered_W - logits_W.new_zeros(num_rows).index_add(0, owners_W, lowered_W.exp()).log()[owners_W]


def _accuracy(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    return {"accuracy": sums_RK[:, 0] / sums_RK[:, 1]}
