"""Summarization: a short text that says what a long one says."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from luthier.data.section import DataSection
from luthier.metrics.likelihoods import SCORES
from luthier.metrics.rouge import rouge
from luthier.metrics.written import Measure, length, repetition
from luthier.tasks import tasks
from luthier.tasks.text.seq2seq import Seq2SeqTask

ROUGE = ("rouge1", "rouge2", "rougeL")


@tasks.add
class Summarization(Seq2SeqTask):
    """What a long text says, in short."""

    text_scores: ClassVar[tuple[str, ...]] = (*ROUGE, "length", "repetition")
    own_scores: ClassVar[tuple[str, ...]] = (*SCORES, *text_scores)
    rouge_stemmer: bool = Field(False, description="Whether ROUGE compares English words by their stems (Porter).")

    def pairs(self, data: DataSection) -> Any:
        """Return how rows are read."""
        from luthier.tasks.text.seq2seq_preparation import Pairs

        return Pairs(self.registered_name, data, self.prefix, self.max_target_length)

    def measures(self) -> list[Measure]:
        """Return ROUGE, length and repetition."""
        return [rouge(stemmer=self.rouge_stemmer), length, repetition]
