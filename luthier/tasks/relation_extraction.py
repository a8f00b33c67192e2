"""Relation extraction: how two marked entities of a text stand to each other.

B rows, T tokens, C relations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from luthier.core.errors import ConfigError, DataError, Fault, refuse
from luthier.core.model_folder import read_settings
from luthier.core.work import Answer, Batch, Part, Parts, RowOutputs, Term, Terms, Weighted
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.reading import RowFault, excerpt
from luthier.data.section import DataSection
from luthier.losses import losses
from luthier.losses.loss import Loss, disagreement, target_weights
from luthier.metrics.probabilities import mean_as_scores, softmax
from luthier.metrics.relations import PRIMARY, SCORES, compared_relations, no_relation_among
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.relations.encoding import add_markers, encode_marked, own_markers
from luthier.tasks.relations.laying import laid_relations
from luthier.tasks.relations.marks import EXAMPLE, Marked, read_marks
from luthier.tasks.relations.records import load_relations, types_of
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.class_weights import class_weights, weight_tensor
from luthier.tasks.text.kept import as_fields, as_kept, keep
from luthier.tasks.text.preparation import label_names
from luthier.tasks.text.records_preparation import Laid, Reader, encoded_splits, prepare_records
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import batch_of_windows, rows_of
from luthier.tasks.text_classification import DEFAULT_LOSS

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told

KEPT = ("labels", "max_length", "words", "typed", "no_relation", "columns")
MOST_MISTAKES = 20


class Said(NamedTuple):
    """What the model says of a row, `(C,)`, and its true class where that is known."""

    scores: np.ndarray
    truth: int | None


@tasks.add
class RelationExtraction(Task):
    """Which relation two marked entities of a text have."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = PRIMARY
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    has_untuned: ClassVar[bool] = False
    has_mean: ClassVar[bool] = True
    markers: Literal["tokens", "words"] = Field(
        "tokens",
        description="What stands around the entities: tokens of their own, which are learnt, or words: the signs @ and # of the "
        "vocabulary, as an adapter needs it.",
    )
    typed: bool = Field(True, description="Whether the types of the entities, where rows have them, are part of the markers.")
    no_relation: str | None = Field(
        None, description="Label that stands for no relation, which no F1 is of; none: one called Other, no_relation or NA."
    )
    head: str | None = Field(
        None, description="Column with the first entity, an object with start, end and perhaps type; none: by its name."
    )
    tail: str | None = Field(None, description="Column with the second entity; none: by its name.")

    @property
    def adds_tokens(self) -> bool:
        """Whether the vocabulary grows."""
        return self.markers == "tokens"

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        _refuse_what_does_not_fit(data)
        reader = Reader(
            settings={"task": self.registered_name, **self.model_dump(include={"markers", "typed", "head", "tail"})},
            load=lambda: load_relations(data, self.head, self.tail),
            labels=lambda train: label_names(train, multi_label=False),
            lay_out=self._laid,
        )
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> RelationExtractionWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if the loss does not fit, or no row has the label that stands for no relation.
        """
        from luthier.models.pretrained import open_tokenizer

        loss = loss or losses.get(DEFAULT_LOSS["single-label"])()
        if "single-label" not in loss.problems or loss.cosine_scale is not None:
            what = f"{loss.registered_name} does not fit relation-extraction, which has one class a row and a linear head"
            raise ConfigError([Fault("loss.type", what, "use loss=cross-entropy")])
        if self.no_relation is not None and self.no_relation not in prepared.labels:
            what = f"no row has the label '{self.no_relation}'; there are {', '.join(prepared.labels)}"
            raise ConfigError([Fault("task.no_relation", what, "name one of them, or leave it out")])
        return RelationExtractionWork(
            tokenizer=open_tokenizer(prepared.tokenizer),
            labels=prepared.labels,
            max_length=prepared.max_length,
            words=self.markers == "words",
            typed=self.typed,
            no_relation=self.no_relation or no_relation_among(prepared.labels),
            columns=(self.head, self.tail),
            loss=loss,
            class_weights=class_weights(loss, prepared) if "train" in prepared.splits else None,
        )

    def reopen(self, folder: Path) -> RelationExtractionWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        kept = as_fields(read_settings(folder), KEPT)
        return RelationExtractionWork(open_tokenizer(folder), **kept, loss=losses.get(DEFAULT_LOSS["single-label"])())

    def restore(self, folder: Path) -> tuple[RelationExtractionWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.token_head import load_token_head

        return self.reopen(folder), {"model": Part(load_token_head(folder), "frozen")}

    def _laid(self, table: pa.Table, tokenizer: Any, longest: int, labels: Sequence[str]) -> Laid:
        """Return the rows of a split as the model reads them; the first split, that of training, says which markers there are."""
        words = self.markers == "words"
        if not words and not own_markers(tokenizer):
            add_markers(tokenizer, types_of(table) if self.typed else set())
        return laid_relations(table, tokenizer, longest, labels, words=words, typed=self.typed)


@dataclass(frozen=True)
class RelationExtractionWork(RowWork):
    """Relation extraction with known relations and tokenizer.

    The model has 2 C outputs at every token; the first C at the opening marker of `e1` and the others at that of `e2`, summed, are the
    scores: one linear layer over both states.

    Args:
        tokenizer: A fast tokenizer, with the markers where these are tokens of their own.
        labels: Names of the C relations.
        max_length: Longest text in tokens.
        words: Whether markers are signs of the vocabulary.
        typed: Whether types are in the markers.
        no_relation: Label that stands for no relation, or None.
        columns: Columns with the entities, where they were named.
        loss: What is minimised.
        class_weights: Weight of each class, or None.
    """

    tokenizer: Any
    labels: tuple[str, ...]
    max_length: int
    words: bool
    typed: bool
    no_relation: str | None
    columns: tuple[str | None, str | None]
    loss: Loss
    class_weights: tuple[float, ...] | None = None

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the encoder with its head and the markers in its vocabulary, and its new parameters."""
        from luthier.models.token_head import start_token_head

        outputs = [f"{entity}: {label}" for entity in ("e1", "e2") for label in self.labels]
        return grown_parts(start_token_head(model, outputs), self.tokenizer)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows padded to the longest, with the places of the opening markers in `starts`."""
        import torch

        batch = batch_of_windows(rows, self.tokenizer)
        targets = {"starts": torch.tensor([json.loads(record)["starts"] for record in batch.records])}
        if rows[0].target is not None:
            targets["labels"] = torch.tensor([int(row.target) for row in rows])
        return replace(batch, targets=targets)

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the summed class weights of the rows."""
        labels = batch.targets["labels"]
        weights = {"loss": float(target_weights(labels, weight_tensor(self.class_weights, like=labels)).sum())}
        return weights | ({"r_drop": float(len(labels))} if self.loss.r_drop else {})

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the loss over the relations, of two passes their mean; beside it what `loss.r_drop` asks for."""
        value, logits_BC = self._loss(parts, batch)
        if not self.loss.r_drop:
            return {"loss": Term(value.sum, value.weight)}
        again, again_BC = self._loss(parts, batch)
        apart = disagreement(logits_BC, again_BC, batch.targets["labels"])
        terms = {"loss": Term((value.sum + again.sum) / 2, value.weight)}
        return {**terms, "r_drop": Term(apart.sum, apart.weight, self.loss.r_drop)}

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the relations."""
        return {"loss": self.labels}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the scores of the rows."""
        from luthier.losses.distillation.told import Classes

        return {"loss": Classes(self._read(given, batch))}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows."""
        return {"loss": float(len(batch.ids))}

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return of each row the scores of the relations, and the true one where it is known."""
        scores_BC = self._logits(parts, batch).cpu().numpy()
        truth_B = batch.targets["labels"].tolist() if "labels" in batch.targets else [None] * len(scores_BC)
        return RowOutputs.of(batch.ids, [Said(scores, truth) for scores, truth in zip(scores_BC, truth_B, strict=True)])

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return the scores, those of each relation, and the mistakes that the model was surest of."""
        probabilities_NC = np.stack([softmax(said.scores) for said in outputs.said])
        predicted_N, truth_N = probabilities_NC.argmax(1), np.array([said.truth for said in outputs.said])
        sureness_N = probabilities_NC.max(1)
        wrong = np.flatnonzero(predicted_N != truth_N)
        mistakes = [
            {
                "id": int(outputs.ids[row]),
                "truth": self.labels[truth_N[row]],
                "predicted": self.labels[predicted_N[row]],
                "probability": float(sureness_N[row]),
                "truth_probability": float(probabilities_NC[row, truth_N[row]]),
            }
            for row in wrong[np.argsort(-sureness_N[wrong], kind="stable")][:MOST_MISTAKES]
        ]
        truth, predicted = ([self.labels[index] for index in found] for found in (truth_N, predicted_N))
        return compared_relations(outputs.ids, truth, predicted, no_relation=self.no_relation, mistakes=mistakes)

    def mean_said(self, said: Sequence[Said]) -> Said:
        """Return the mean of the probabilities of the relations."""
        return Said(mean_as_scores([one.scores for one in said]), said[0].truth)

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return the most probable relation of each row, with all probabilities."""
        answers = []
        for said in outputs.said:
            row = softmax(said.scores)
            order = np.argsort(-row, kind="stable")
            answers.append(Answer(self.labels[order[0]], {self.labels[index]: round(float(row[index]), 6) for index in order}))
        return answers

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return the scores of each row."""
        return [said.scores for said in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts with marked entities as rows, numbered from 0.

        Raises:
            DataError: if the entities of a text are not marked.
        """
        marked = [_read(text, number) for number, text in enumerate(texts, 1)]
        encoded, starts = self._encoded(marked)
        return rows_of(encoded, [json.dumps({"starts": found}) for found in starts])

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files with their relations, encoded; rows that cannot be used are counted and said."""
        rows, manner = load_relations(data, *self.columns, known=self.labels), {"words": self.words, "typed": self.typed}
        return encoded_splits(rows, lambda table: laid_relations(table, self.tokenizer, self.max_length, self.labels, **manner))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.token_head import save_token_head

        save_token_head(parts["model"].module, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, RelationExtraction.registered_name, as_kept(self, KEPT))

    def describe(self) -> dict[str, Any]:
        """Return relations, lengths, markers and loss."""
        return {**as_kept(self, KEPT), "loss": self.loss.model_dump()}

    def _encoded(self, marked: Sequence[Marked]) -> Any:
        return encode_marked(self.tokenizer, marked, words=self.words, typed=self.typed, max_length=self.max_length)

    def _logits(self, parts: Parts, batch: Batch) -> torch.Tensor:
        """Return the scores of the relations, `(B, C)`, in float32."""
        return self._read(self.given(parts, batch), batch)

    def _read(self, given: Any, batch: Batch) -> torch.Tensor:
        import torch

        scores_BTD = given.logits.float()
        rows_B, (first_B, second_B) = torch.arange(len(scores_BTD), device=scores_BTD.device), batch.targets["starts"].unbind(1)
        number = len(self.labels)
        scores: torch.Tensor = scores_BTD[rows_B, first_B, :number] + scores_BTD[rows_B, second_B, number:]
        return scores

    def _loss(self, parts: Parts, batch: Batch) -> tuple[Weighted, torch.Tensor]:
        logits_BC, labels = self._logits(parts, batch), batch.targets["labels"]
        return self.loss(logits_BC, labels, weight_tensor(self.class_weights, like=labels)), logits_BC


def _refuse_what_does_not_fit(data: DataSection) -> None:
    wrong = [
        ("data.text_pair", data.text_pair is not None, "relation-extraction reads one text", "leave it out"),
        ("data.label_separator", data.label_separator is not None, "two entities have one relation", "leave it out"),
        ("data.augment", bool(data.augment), "augmentation does not know the markers", "leave it out"),
        ("data.long_texts", data.long_texts != "truncate", "of long texts what is near the entities is read", "leave it out"),
    ]
    refuse(wrong)


def _read(text: str, number: int) -> Marked:
    try:
        return read_marks(text)
    except RowFault as fault:
        raise DataError(f"text {number} cannot be read: {fault}", where=excerpt(text), fix=f"mark the two entities: {EXAMPLE}") from None
