"""Span extraction: every piece of a text that is what a prompt names, such as `person`, `price` or `keyword`.

B rows, W windows (as many as rows unless texts are long), T tokens.
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
from luthier.metrics.found_spans import SCORES, compared_spans
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.best_spans import Window
from luthier.tasks.text.extraction_rows import lay_out_extractions, load_extractions
from luthier.tasks.text.kept import keep, settings_among
from luthier.tasks.text.records_preparation import Reader, encoded_splits, prepare_records
from luthier.tasks.text.span_batch import batch_of_marked, said_of_windows, scores_given, token_scores
from luthier.tasks.text.span_windows import windows_of
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import padded, rows_of

if TYPE_CHECKING:
    from luthier.losses.distillation.told import Told

log = logging.getLogger("luthier")
MOST_MISTAKES = 20
NOTHING = "(nothing)"


@tasks.add
class SpanExtraction(Task):
    """Which pieces of a text are what a prompt names.

    Reference: UIE, https://arxiv.org/abs/2203.12277; its pointers as in PaddleNLP
    """

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = "f1"
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    threshold: float = Field(0.5, gt=0, lt=1, description="Probability from which on a token is taken for the first or last of a span.")
    max_span_length: int = Field(50, ge=1, description="Most tokens of a span.")

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        changed = "spans have their places in the texts as they are, and data.augment changes them"
        wrong = [
            ("model.scratch", model.scratch is not None, "a model from nothing writes text; it points at nothing", "use model.path"),
            ("data.augment", bool(data.augment), changed, "leave data.augment out"),
        ]
        refuse(wrong)
        reader = Reader(
            settings={"task": self.registered_name, "max_span_length": self.max_span_length},
            load=lambda: load_extractions(data),
            labels=lambda _: (),
            lay_out=lambda table, tokenizer, longest, _: lay_out_extractions(
                table, tokenizer, longest, stride=data.window_stride, longest_span=self.max_span_length
            ),
        )
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> SpanExtractionWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if a loss over classes is wanted.
        """
        from luthier.models.pretrained import open_tokenizer

        if loss is not None:
            what = "losses are over classes, and span-extraction asks of each token whether a span begins or ends there"
            raise ConfigError([Fault("loss", what, "leave loss out")])
        return SpanExtractionWork(open_tokenizer(prepared.tokenizer), prepared.max_length, data.window_stride, self)

    def reopen(self, folder: Path) -> SpanExtractionWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        found = read_settings(folder)
        return SpanExtractionWork(open_tokenizer(folder), found["max_length"], found["stride"], settings_among(SpanExtraction, found))

    def restore(self, folder: Path) -> tuple[SpanExtractionWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.span_model import load_span_model

        return self.reopen(folder), {"model": Part(load_span_model(folder), "frozen")}


class Said(NamedTuple):
    """What the model says of one row: its spans with their probabilities, in their order, and the right ones where they are known."""

    spans: dict[tuple[int, int], float]
    likeliest: tuple[float, float]
    text: str
    prompt: str
    right: list[tuple[int, int]] | None


@dataclass(frozen=True)
class SpanExtractionWork(RowWork):
    """Span extraction with a known tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        max_length: Longest window in tokens.
        stride: Tokens of the text that windows share.
        settings: The task's settings.
    """

    tokenizer: Any
    max_length: int
    stride: int
    settings: SpanExtraction

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return a model that points at tokens, and its new parameters."""
        from luthier.models.span_model import start_span_model

        return grown_parts(start_span_model(model), self.tokenizer)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the windows of the rows, padded, with the tokens where spans begin and end and the characters of each token."""
        import torch

        batch, _ = batch_of_marked(rows, self.tokenizer)
        lengths = [[len(window) for window in row.windows] for row in rows]
        learnt = [np.asarray(row.target)[3 * len(own) + 2 * sum(own) :] for row, own in zip(rows, lengths, strict=True)]
        if any(not len(one) for one in learnt):
            return batch
        mask_WT, known = batch.inputs["attention_mask"].bool().numpy(), {}
        for place, name in enumerate(("start", "end")):
            sides = [one.reshape(2, -1)[place] for one in learnt]
            windows = [part for side, own in zip(sides, lengths, strict=True) for part in np.split(side, np.cumsum(own)[:-1])]
            known[name] = torch.from_numpy(padded(windows, mask_WT, 0).astype(np.float32))
        return replace(batch, targets={**known, **batch.targets})

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of tokens of texts."""
        return {"loss": float((batch.targets["chars"][..., 0] >= 0).sum())}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the mean of two binary cross-entropies, summed over the tokens of the texts: a span begins there, and ends there."""
        from torch.nn import functional

        inside_WT = (batch.targets["chars"][..., 0] >= 0).float()
        scores = zip(("start", "end"), token_scores(parts, batch), strict=True)
        sides = [
            functional.binary_cross_entropy_with_logits(side_WT, batch.targets[name], weight=inside_WT, reduction="sum")
            for name, side_WT in scores
        ]
        return {"loss": Term((sides[0] + sides[1]) / 2, inside_WT.sum())}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the scores of the tokens of the texts to be the first of a span, then those to be the last."""
        import torch

        from luthier.losses.distillation.told import YesNo

        inside_WT = batch.targets["chars"][..., 0] >= 0
        return {"loss": YesNo(torch.cat([side_WT[inside_WT] for side_WT in scores_given(given, batch)]))}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return two for each token of the texts."""
        return {"loss": 2 * self.weights(batch)["loss"]}

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return the spans of each row."""
        start_WT, end_WT = (side.sigmoid() for side in token_scores(parts, batch))
        said = []
        for windows, record in zip(said_of_windows(batch, start_WT, end_WT), batch.records, strict=True):
            kept, found = json.loads(record), dict[tuple[int, int], float]()
            for window in windows:
                for place, share in found_in(window, self.settings.threshold, self.settings.max_span_length):
                    found[place] = max(share, found.get(place, 0.0))
            right = [(begin, end) for begin, end in kept["spans"]] if "spans" in kept else None
            said.append(Said(dict(sorted(found.items())), _likeliest(windows), kept["context"], kept["prompt"], right))
        return RowOutputs.of(batch.ids, said)

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return precision, recall and F1 of the spans, of each prompt too, and rows with mistakes."""
        said = [list(one.spans) for one in outputs.said]
        right = [one.right or [] for one in outputs.said]
        wrong = [row for row in range(len(said)) if set(said[row]) != set(right[row])]
        worst = sorted(wrong, key=lambda row: -len(set(said[row]) ^ set(right[row])))[:MOST_MISTAKES]
        mistakes = [
            {
                "id": int(outputs.ids[row]),
                "truth": f"{outputs.said[row].prompt}: {_shown(outputs.said[row].text, right[row])}",
                "predicted": _shown(outputs.said[row].text, said[row]),
            }
            for row in worst
        ]
        return compared_spans(outputs.ids, said, right, [one.prompt for one in outputs.said], details={"mistakes": mistakes})

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return the spans of each row with their places and probabilities."""
        return [
            Answer(
                [
                    {"text": one.text[begin:end], "start": begin, "end": end, "score": round(share, 4)}
                    for (begin, end), share in one.spans.items()
                ],
                {},
            )
            for one in outputs.said
        ]

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return for each row the highest probabilities that a span begins, and ends."""
        return [np.array(one.likeliest) for one in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts with their prompts as rows, numbered from 0.

        Raises:
            DataError: if there are no prompts.
        """
        if pairs is None:
            fix = "give it with --pair TEXT, name its column with --text-pair; in Python: predict(texts, prompts)"
            raise DataError("span-extraction looks for what a prompt names, and none is given", where="text_pair", fix=fix)
        found = windows_of(self.tokenizer, pairs, texts, max_length=self.max_length, stride=self.stride)
        if found.num_cut:
            log.warning("%d prompts were cut at their end: they leave no room for a text", found.num_cut)
        kept = [json.dumps({"context": text, "prompt": prompt}, ensure_ascii=False) for text, prompt in zip(texts, pairs, strict=True)]
        return [replace(row, target=marks) for row, marks in zip(rows_of(found.encoded, kept), found.marks, strict=True)]

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files with their spans, encoded; rows that cannot be used are counted and said."""
        manner = {"stride": self.stride, "longest_span": self.settings.max_span_length}
        return encoded_splits(load_extractions(data), lambda table: lay_out_extractions(table, self.tokenizer, self.max_length, **manner))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.span_model import save_span_model

        save_span_model(parts["model"].module, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, SpanExtraction.registered_name, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return lengths and settings."""
        return {"max_length": self.max_length, "stride": self.stride, **self.settings.model_dump(mode="json", exclude={"type"})}


def found_in(window: Window, threshold: float, longest: int) -> list[tuple[tuple[int, int], float]]:
    """Return the spans of a window with their probabilities: each end with the nearest beginning before it, and the other way round.

    Args:
        window: Probabilities of its tokens to be the first and the last of a span.
        threshold: Probability from which on a token is one.
        longest: Most tokens of a span.
    """
    inside_T = window.begin_T >= 0
    starts = np.flatnonzero(inside_T & (window.start_T >= threshold)).tolist()
    nearest: dict[int, int] = {}
    for end in np.flatnonzero(inside_T & (window.end_T >= threshold)).tolist():
        before = [start for start in starts if start <= end]
        if before and end - before[-1] < longest:
            nearest.setdefault(before[-1], end)
    return [
        ((int(window.begin_T[start]), int(window.stop_T[end])), float(window.start_T[start] * window.end_T[end]))
        for start, end in nearest.items()
    ]


def _likeliest(windows: Sequence[Window]) -> tuple[float, float]:
    inside = [window.begin_T >= 0 for window in windows]
    start = max(float(window.start_T[mask].max(initial=0)) for window, mask in zip(windows, inside, strict=True))
    return start, max(float(window.end_T[mask].max(initial=0)) for window, mask in zip(windows, inside, strict=True))


def _shown(text: str, spans: Sequence[tuple[int, int]]) -> str:
    return ", ".join(text[begin:end] for begin, end in spans) or NOTHING
