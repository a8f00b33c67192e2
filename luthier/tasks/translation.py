"""Translation: the same text in another language."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core import paths
from luthier.data.section import DataSection
from luthier.metrics.likelihoods import SCORES
from luthier.metrics.sacre import bleu, chrf
from luthier.metrics.written import Measure, length, repetition
from luthier.tasks import tasks
from luthier.tasks.text.seq2seq import Seq2SeqTask


@tasks.add
class Translation(Seq2SeqTask):
    """What a text is in another language."""

    text_scores: ClassVar[tuple[str, ...]] = ("bleu", "chrf", "length", "repetition")
    own_scores: ClassVar[tuple[str, ...]] = (*SCORES, *text_scores)
    source_language: str | None = Field(
        None, description="Language that is read: a key of nested translations, a column, or the ending of files such as train.en."
    )
    target_language: str | None = Field(None, description="Language that is written, named in the same way.")
    target_file: str | None = Field(
        None, description="File with the targets of data.train, line by line; those of other splits have the name changed in the same way."
    )
    bleu_tokenize: Literal["auto", "13a", "intl", "zh", "char"] = Field(
        "auto", description="How sacrebleu cuts texts into words for BLEU; auto: zh for Chinese, else 13a."
    )

    @field_validator("target_file")
    @classmethod
    def _whole_path(cls, written: str | None) -> str | None:
        return None if written is None else paths.expanded(written)

    def pairs(self, data: DataSection) -> Any:
        """Return how rows are read: from one file, or from two that belong together."""
        from luthier.tasks.text.seq2seq_preparation import Pairs, files_of_languages, languages_of

        languages = languages_of(data, (self.source_language, self.target_language), self.target_file)
        data, notes = files_of_languages(data, languages)
        return Pairs(self.registered_name, data, self.prefix, self.max_target_length, languages, self.target_file, tuple(notes))

    def settled(self, data: DataSection) -> Translation:
        """Return the settings with the languages that the names of the files say."""
        from luthier.tasks.text.seq2seq_preparation import languages_of

        languages = languages_of(data, (self.source_language, self.target_language), self.target_file)
        source, target = languages or (None, None)
        return self.model_copy(update={"source_language": source, "target_language": target})

    def measures(self) -> list[Measure]:
        """Return BLEU, chrF, length and repetition."""
        return [bleu(tokenize=self.bleu_tokenize), chrf(), length, repetition]
