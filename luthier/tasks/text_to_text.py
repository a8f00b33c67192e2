"""Text to text: any text that is answered with a text, as T5 puts every task."""

from __future__ import annotations

from typing import Any, ClassVar

from luthier.data.section import DataSection
from luthier.metrics.likelihoods import SCORES
from luthier.metrics.rouge import rouge
from luthier.metrics.written import Measure, exact_match, length, repetition
from luthier.tasks import tasks
from luthier.tasks.text.seq2seq import Seq2SeqTask


@tasks.add
class TextToText(Seq2SeqTask):
    """Which text answers a text."""

    text_scores: ClassVar[tuple[str, ...]] = ("exact_match", "rougeL", "length", "repetition")
    own_scores: ClassVar[tuple[str, ...]] = (*SCORES, *text_scores)

    def pairs(self, data: DataSection) -> Any:
        """Return how rows are read."""
        from luthier.tasks.text.seq2seq_preparation import Pairs

        return Pairs(self.registered_name, data, self.prefix, self.max_target_length)

    def measures(self) -> list[Measure]:
        """Return exact match, ROUGE-L, length and repetition."""
        return [exact_match, rouge(kinds=("rougeL",)), length, repetition]
