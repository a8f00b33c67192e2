"""Reading one text and writing another: what summarization, translation and text-to-text share.

B rows, T tokens of the source, S supervised tokens.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.core.errors import refuse
from luthier.core.model_folder import read_settings
from luthier.core.work import Batch, Part, Parts
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.section import DataSection
from luthier.losses.cross_entropy import CrossEntropy
from luthier.losses.loss import Loss
from luthier.metrics.row_sums import RowSums
from luthier.metrics.written import Measure, Written, measured
from luthier.models.section import ModelSection
from luthier.tasks.task import Task, WritingWork
from luthier.tasks.text.kept import keep, settings_among
from luthier.tasks.text.learnt_tokens import loss_over_tokens
from luthier.tasks.text.records_preparation import encoded_splits
from luthier.tasks.text.seq2seq_layout import Words, laid_out
from luthier.tasks.text.writing import in_manner

log = logging.getLogger("luthier")


class Seq2SeqTask(Task, ABC):
    """Base of the tasks that read one text and write another, abstract; one says how its texts are found and what they are scored by."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "text"
    reads_apart: ClassVar[bool] = True
    primary_metric = "loss"
    smaller_is_better: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "repetition")
    text_scores: ClassVar[tuple[str, ...]]
    """Scores of written texts; the first is the one that two models would be compared by."""

    prefix: str = Field("", description="What is put before every source, as T5 was pretrained: 'summarize: '.")
    max_target_length: int = Field(128, ge=2, description="Longest target in tokens; longer ones are cut, counted and said.")
    max_new_tokens: int = Field(128, ge=1, description="Most tokens of an answer.")
    num_beams: int = Field(1, ge=1, description="Beams of the search for the most likely answer; 1 takes the most likely token each time.")
    temperature: float = Field(0.0, ge=0, description="0 writes the most likely answer; higher draws from the probabilities.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the most likely tokens that hold this share of the probability.")
    length_penalty: float = Field(1.0, description="With beams: above 1 prefers longer answers, below 1 shorter ones.")
    no_repeat_ngram_size: int = Field(0, ge=0, description="So many tokens in a row are written once at most in an answer; 0: no limit.")
    samples: int = Field(4, ge=0, description="Held-out sources that the tuned and the untuned model answer in the report.")
    written_rows: int = Field(
        200, ge=0, description="Held-out rows of a split that answers are written and scored for, evenly spread; 0: none."
    )

    @abstractmethod
    def pairs(self, data: DataSection) -> Any:
        """Return how rows are read, a `Pairs` of luthier.tasks.text.seq2seq_preparation."""

    @abstractmethod
    def measures(self) -> list[Measure]:
        """Return what written texts are scored by."""

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        self._refuse_what_does_not_fit(data)
        prepared: Prepared = self.pairs(data).prepared(model)
        return prepared

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> Seq2SeqWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if another loss than cross-entropy is wanted.
        """
        from luthier.models.pretrained import open_tokenizer

        loss = loss_over_tokens(loss, self.registered_name)
        return Seq2SeqWork(open_tokenizer(prepared.tokenizer), prepared.max_length, self.settled(data), loss)

    def settled(self, data: DataSection) -> Seq2SeqTask:
        """Return the settings with what follows from the data, as they are saved."""
        return self

    def reopen(self, folder: Path) -> Seq2SeqWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        found = read_settings(folder)
        return Seq2SeqWork(open_tokenizer(folder), found["max_length"], settings_among(type(self), found), CrossEntropy())

    def restore(self, folder: Path) -> tuple[Seq2SeqWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.seq2seq import load_seq2seq
        from luthier.tasks.text.encoder_decoder import EncoderDecoder

        return self.reopen(folder), {"model": Part(EncoderDecoder(load_seq2seq(folder)), "frozen")}

    def _refuse_what_does_not_fit(self, data: DataSection) -> None:
        name = self.registered_name
        wrong = [
            ("data.text_pair", data.text_pair is not None, f"{name} has one source for each target", "data.text=... data.label=..."),
            ("data.prompt", data.prompt is not None, f"{name} has sources and targets", "data.text=... data.label=..."),
            ("data.augment", bool(data.augment), "augmentation changes texts that are to be learnt as they are", "leave it out"),
            ("data.long_texts", data.long_texts != "truncate", f"{name} has no windows", "data.max_length=... says how much is read"),
        ]
        refuse(wrong)


@dataclass(frozen=True)
class Seq2SeqWork(WritingWork):
    """Reading one text and writing another, with a known tokenizer.

    Args:
        tokenizer: A fast tokenizer that knows an end of text.
        max_length: Most tokens of a source.
        settings: The task's settings.
        loss: Cross-entropy, perhaps smoothed.
    """

    tokenizer: Any
    max_length: int
    settings: Seq2SeqTask
    loss: CrossEntropy

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the model, and its parameters that were not in its files."""
        from luthier.models.seq2seq import start_seq2seq
        from luthier.tasks.text.encoder_decoder import EncoderDecoder

        loaded = start_seq2seq(model, self.tokenizer)
        return {"model": Part(EncoderDecoder(loaded.model))}, frozenset(f"model.{name}" for name in loaded.new)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return sources and targets, each padded; with the places and tokens that are learnt."""
        return laid_out(rows, self.tokenizer.pad_token_id or 0)

    @property
    def written_rows(self) -> int:
        """Rows of a split that answers are written and scored for."""
        return self.settings.written_rows

    def scored(self, rows: Sequence[Row], texts: Sequence[str]) -> RowSums:
        """Return the scores of texts that were written for rows."""
        references = [json.loads(row.record or "{}")["targets"] for row in rows]
        written = Written(np.array([row.id for row in rows]), texts, references)
        return measured(written, self.settings.measures(), primary=self.settings.text_scores[0])

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return sources as rows numbered from 0; long ones are cut, which is said."""
        found, cut_N = self._words.sources([self.settings.prefix + text for text in texts])
        if cut_N.any():
            log.warning("%d texts are longer than %d tokens and were cut", int(cut_N.sum()), self.max_length)
        return [Row(index, [tokens], None, None) for index, tokens in enumerate(found)]

    def writing(self, **manner: Any) -> Seq2SeqWork:
        """Return the work with other settings of how an answer is written; see `WritingWork.writing`."""
        return replace(self, settings=in_manner(self.settings, manner))

    def opening(self, row: Row) -> Row:
        """Return the source of a row."""
        return Row(row.id, [row.windows[0][: int(row.target)]], None, None)

    def prompted(self, rows: Sequence[Row]) -> Batch:
        """Return sources as a batch to write from."""
        return laid_out(rows, self.tokenizer.pad_token_id or 0)

    def written(
        self, parts: Parts, batch: Batch, *, max_new_tokens: int | None = None, greedy: bool = False
    ) -> list[tuple[int, str, np.ndarray]]:
        """Return for each source its id, the text that the model writes, and the logits `(V,)` of its first token."""
        from luthier.tasks.text.encoder_decoder import write

        changes: dict[str, Any] = {"max_new_tokens": max_new_tokens or self.settings.max_new_tokens}
        manner = self.settings.model_copy(update=changes | ({"temperature": 0.0, "num_beams": 1} if greedy else {}))
        return write(parts["model"].module, self.tokenizer, batch, manner)

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files, encoded; rows that cannot be used are counted and said."""
        pairs = self.settings.pairs(data)
        return encoded_splits(pairs.rows(), lambda table: pairs.laid(table, self.tokenizer, self.max_length))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, which plain `generate` writes with as here, the tokenizer and what `restore` needs."""
        from luthier.tasks.text.encoder_decoder import how_to_write

        module: Any = parts["model"].module
        module.model.generation_config.update(**how_to_write(self.settings))
        module.model.save_pretrained(folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, self.settings.registered_name, {**self._plain_settings, "max_length": self.max_length})

    def describe(self) -> dict[str, Any]:
        """Return lengths, prefix and loss."""
        settings = self.settings
        lengths = {"max_length": self.max_length, "max_target_length": settings.max_target_length}
        return {**lengths, "prefix": settings.prefix, "loss": self.loss.model_dump()}

    @property
    def _plain_settings(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in type(self.settings).model_fields}

    @property
    def _words(self) -> Words:
        return Words(self.tokenizer, self.max_length, min(self.settings.max_target_length, self.max_length))
