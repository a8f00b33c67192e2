"""Question answering: the piece of a context that answers a question, or that there is none.

B rows, W windows (as many as rows unless contexts are long), T tokens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from luthier.core.errors import ConfigError, DataError, Fault, refuse
from luthier.core.model_folder import read_settings
from luthier.core.work import Answer, Batch, Part, Parts, RowOutputs, Term, Terms
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.section import DataSection
from luthier.losses.loss import Loss
from luthier.metrics.answer_texts import SCORES, Asked, compared_answers, is_chinese
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.best_spans import Spans, best_spans
from luthier.tasks.text.kept import keep, settings_among
from luthier.tasks.text.question_rows import COUNTS, lay_out_questions, load_questions
from luthier.tasks.text.records_preparation import Reader, encoded_splits, prepare_records
from luthier.tasks.text.span_batch import batch_of_marked, said_of_windows, scores_given, token_scores
from luthier.tasks.text.span_windows import windows_of
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import rows_of

if TYPE_CHECKING:
    from luthier.losses.distillation.told import Told

log = logging.getLogger("luthier")
MOST_MISTAKES = 20
NO_ANSWER = "(no answer)"


@tasks.add
class QuestionAnswering(Task):
    """Which piece of a context answers a question."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = "f1"
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    no_answer: bool | Literal["auto"] = Field(
        "auto", description="Whether a context may have no answer to its question; auto: where training rows have none."
    )
    null_threshold: float = Field(
        0.0, description="No answer is given where its score is higher than the best span's by more than this; where there may be none."
    )
    max_answer_length: int = Field(30, ge=1, description="Most tokens of an answer.")
    n_best: int = Field(20, ge=1, description="Spans of a context that are compared; the score of an answer is its share among them.")
    language: Literal["auto", "english", "chinese"] = Field(
        "auto", description="How answers are compared: by words (english) or by characters (chinese); auto: as each context is written."
    )

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        changed = "answers have their places in the texts as they are, and data.augment changes them"
        wrong = [
            ("model.scratch", model.scratch is not None, "a model from nothing writes text; it points at nothing", "use model.path"),
            ("data.augment", bool(data.augment), changed, "leave data.augment out"),
        ]
        refuse(wrong)
        reader = Reader(
            settings={"task": self.registered_name, "max_answer_length": self.max_answer_length},
            load=lambda: load_questions(data),
            labels=lambda _: (),
            lay_out=lambda table, tokenizer, longest, _: lay_out_questions(
                table, tokenizer, longest, stride=data.window_stride, longest_answer=self.max_answer_length
            ),
        )
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> QuestionAnsweringWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if a loss over classes is wanted.
        """
        from luthier.models.pretrained import open_tokenizer

        if loss is not None:
            what = "losses are over classes, and question-answering learns where an answer begins and ends"
            raise ConfigError([Fault("loss", what, "leave loss out")])
        none = prepared.facts[COUNTS]["train"]["unanswerable"] > 0 if self.no_answer == "auto" else self.no_answer
        settings = self.model_copy(update={"no_answer": none})
        return QuestionAnsweringWork(open_tokenizer(prepared.tokenizer), prepared.max_length, data.window_stride, settings)

    def reopen(self, folder: Path) -> QuestionAnsweringWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        found = read_settings(folder)
        return QuestionAnsweringWork(open_tokenizer(folder), found["max_length"], found["stride"], settings_among(QuestionAnswering, found))

    def restore(self, folder: Path) -> tuple[QuestionAnsweringWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.span_model import load_span_model

        return self.reopen(folder), {"model": Part(load_span_model(folder), "frozen")}


class Said(NamedTuple):
    """What the model says of one row: its best spans in the context, and the right answers where they are known."""

    spans: Spans
    context: str
    right: list[str] | None


@dataclass(frozen=True)
class QuestionAnsweringWork(RowWork):
    """Question answering with a known tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        max_length: Longest window in tokens.
        stride: Tokens of the context that windows share.
        settings: The task's settings; `no_answer` is decided.
    """

    tokenizer: Any
    max_length: int
    stride: int
    settings: QuestionAnswering

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return a model that points at tokens, and its new parameters."""
        from luthier.models.span_model import start_span_model

        return grown_parts(start_span_model(model), self.tokenizer)

    def going_on(self, old: QuestionAnsweringWork) -> QuestionAnsweringWork:
        """Return the work that may find no answer where the old rows had none."""
        none = self.settings.no_answer is True or old.settings.no_answer is True
        return replace(self, settings=self.settings.model_copy(update={"no_answer": none}))

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the windows of the rows, padded, with the tokens of their answers and the characters of each token."""
        import torch

        batch, marks = batch_of_marked(rows, self.tokenizer)
        sides = {"start": [mark.start_W for mark in marks], "end": [mark.end_W for mark in marks]}
        known = {name: torch.from_numpy(np.concatenate(side).astype(np.int64)) for name, side in sides.items()}
        return replace(batch, targets={**known, **batch.targets})

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of windows."""
        return {"loss": float(len(batch.targets["start"]))}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the mean of the cross-entropies of the first and of the last token, summed over the windows."""
        from torch.nn import functional

        start_WT, end_WT = token_scores(parts, batch)
        first = functional.cross_entropy(start_WT, batch.targets["start"], reduction="sum")
        last = functional.cross_entropy(end_WT, batch.targets["end"], reduction="sum")
        return {"loss": Term((first + last) / 2, start_WT.new_tensor(float(len(start_WT))))}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the scores of the tokens to be the first of the answer, window by window, then those to be the last."""
        import torch

        from luthier.losses.distillation.told import Classes

        return {"loss": Classes(torch.cat(scores_given(given, batch)))}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return two for each window."""
        return {"loss": 2 * float(len(batch.targets["null"]))}

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return the best spans of each row."""
        windows_of_rows, said = said_of_windows(batch, *token_scores(parts, batch)), []
        for row, record in enumerate(batch.records):
            kept = json.loads(record)
            spans = best_spans(windows_of_rows[row], most=self.settings.n_best, longest=self.settings.max_answer_length)
            said.append(Said(spans, kept["context"], kept.get("answers")))
        return RowOutputs.of(batch.ids, said)

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return exact match and F1, and the rows that the model was surest of among the worst."""
        told = [self._answer(said).label for said in outputs.said]
        pairs = zip(told, outputs.said, strict=True)
        rows = [Asked(label["answer"], said.right or (), self._is_chinese(said)) for label, said in pairs]
        surest = np.array([label["score"] for label in told])
        found = compared_answers(outputs.ids, rows)
        f1_N = found.columns_NK[:, 2]
        wrong = [int(row) for row in np.lexsort((-surest, f1_N)) if f1_N[row] < 1][:MOST_MISTAKES]
        mistakes = [
            {
                **{"id": int(outputs.ids[row]), "predicted": rows[row].said or NO_ANSWER, "probability": float(surest[row])},
                "truth": " / ".join(dict.fromkeys(rows[row].right)) or NO_ANSWER,
            }
            for row in wrong
        ]
        return replace(found, details={"mistakes": mistakes})

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return the answer to each row with its place in the context and its score; an empty text for none."""
        return [self._answer(said) for said in outputs.said]

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return for each row the scores of no answer and of the best span."""
        return [np.array([said.spans.null, said.spans.best]) for said in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new questions with their contexts as rows, numbered from 0.

        Raises:
            DataError: if there are no contexts.
        """
        if pairs is None:
            fix = "give it with --pair TEXT, name its column with --text-pair; in Python: predict(questions, contexts)"
            raise DataError("question-answering finds an answer in a context, and none is given", where="text_pair", fix=fix)
        found = windows_of(self.tokenizer, texts, pairs, max_length=self.max_length, stride=self.stride)
        if found.num_cut:
            log.warning("%d questions were cut at their end: they leave no room for a context", found.num_cut)
        rows = rows_of(found.encoded, [json.dumps({"context": context}, ensure_ascii=False) for context in pairs])
        return [replace(row, target=marks) for row, marks in zip(rows, found.marks, strict=True)]

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files with their answers, encoded; rows that cannot be used are counted and said."""
        manner = {"stride": self.stride, "longest_answer": self.settings.max_answer_length}
        return encoded_splits(load_questions(data), lambda table: lay_out_questions(table, self.tokenizer, self.max_length, **manner))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.span_model import save_span_model

        save_span_model(parts["model"].module, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, QuestionAnswering.registered_name, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return lengths and settings."""
        settings = self.settings.model_dump(mode="json", exclude={"type"})
        return {"max_length": self.max_length, "stride": self.stride, **settings}

    def _answer(self, said: Said) -> Answer:
        may_be_none = self.settings.no_answer is True
        place, score = said.spans.chosen(may_be_none=may_be_none, threshold=self.settings.null_threshold)
        begin, end = place or (0, 0)
        text = said.context[begin:end]
        begin += len(text) - len(text.lstrip())  # some tokenizers count the space before a word to it
        text = text.strip()
        return Answer({"answer": text, "start": begin, "end": begin + len(text), "score": round(score, 4)}, {})

    def _is_chinese(self, said: Said) -> bool:
        return is_chinese(said.context) if self.settings.language == "auto" else self.settings.language == "chinese"
