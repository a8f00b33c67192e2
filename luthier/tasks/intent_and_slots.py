"""Intent and slots of a text, from one encoder: what is wanted, and the words that say with what.

B rows, T tokens, W words, I intents, S slot tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from luthier.core.errors import ConfigError, Fault, refuse
from luthier.core.model_folder import read_settings
from luthier.core.work import Answer, Batch, Part, Parts, RowOutputs, Term, Terms
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.records import load_records
from luthier.data.section import DataSection
from luthier.losses.loss import Loss
from luthier.metrics.frames import PRIMARY, SCORES, Frame, compared_frames
from luthier.metrics.probabilities import mean_as_scores, softmax
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.frames.laying import INTENT, SLOT, UNKNOWN, filled, laid_frames, names_after, output_names, outputs_of
from luthier.tasks.frames.records import frame_of, open_frames, with_splits
from luthier.tasks.frames.tags import OUTSIDE, Decoder, slots_of
from luthier.tasks.frames.words import UNREAD, encode_words, words_of
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.kept import as_fields, as_kept, keep
from luthier.tasks.text.records_preparation import Reader, encoded_splits, prepare_records
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import batch_of_windows, rows_of

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told

KEPT = ("intents", "tags", "max_length", "words", "column", "coefficients")
MOST_MISTAKES = 20


class Said(NamedTuple):
    """What the model says of a row: scores of the intents `(I,)`, of the tags of each word `(W, S)`, and what the row is."""

    intents: np.ndarray
    tags: np.ndarray
    record: str


@tasks.add
class IntentAndSlots(Task):
    """What is wanted (the intent), and the words that say with what (the slots)."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = PRIMARY
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    has_untuned: ClassVar[bool] = False
    has_mean: ClassVar[bool] = True
    tags: str | None = Field(None, description="Column with the slot tags, one for each word; none: found by its name.")
    words: Literal["spaces", "characters"] = Field(
        "spaces",
        description="What the words of a text are: what stands between spaces; with characters every Chinese character is a word too.",
    )
    intent_weight: float = Field(1.0, gt=0, description="How much the loss of the intents counts: its mean over the rows.")
    slots_weight: float = Field(1.0, gt=0, description="How much the loss of the slot tags counts: its mean over the words.")

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        _refuse_what_does_not_fit(data)
        data = with_splits(data)
        reader = Reader(
            settings={"task": self.registered_name, "tags": self.tags, "words": self.words},
            load=lambda: load_records(data, lambda row: frame_of(row, data, self.tags, self.words), open_as=open_frames),
            labels=outputs_of,
            lay_out=laid_frames,
        )
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> IntentAndSlotsWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if a loss of another kind is wanted.
        """
        from luthier.models.pretrained import open_tokenizer

        if loss is not None:
            what = "intent-and-slots has a loss of its own: cross-entropy of the intents, and of the tags"
            raise ConfigError([Fault("loss", what, "leave it out; see task.intent_weight and task.slots_weight")])
        return IntentAndSlotsWork(
            tokenizer=open_tokenizer(prepared.tokenizer),
            intents=names_after(INTENT, prepared.labels),
            tags=names_after(SLOT, prepared.labels),
            max_length=prepared.max_length,
            words=self.words,
            column=self.tags,
            coefficients=(self.intent_weight, self.slots_weight),
        )

    def reopen(self, folder: Path) -> IntentAndSlotsWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        return IntentAndSlotsWork(open_tokenizer(folder), **as_fields(read_settings(folder), KEPT))

    def restore(self, folder: Path) -> tuple[IntentAndSlotsWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.token_head import load_token_head

        return self.reopen(folder), {"model": Part(load_token_head(folder), "frozen")}


@dataclass(frozen=True)
class IntentAndSlotsWork(RowWork):
    """Intents and slots with known names and tokenizer.

    The model has I + S outputs at every token: the first I are read at the first token, the others at the first token of each word.

    Args:
        tokenizer: A fast tokenizer.
        intents: Names of the I intents.
        tags: The S slot tags.
        max_length: Longest text in tokens; words beyond it are not read, and get no slot.
        words: How a text falls into words.
        column: Column with the slot tags, where it was named.
        coefficients: How much the losses of intents and tags count.
    """

    tokenizer: Any
    intents: tuple[str, ...]
    tags: tuple[str, ...]
    max_length: int
    words: str
    column: str | None = None
    coefficients: tuple[float, float] = (1.0, 1.0)

    @cached_property
    def decoder(self) -> Decoder:
        """What finds the best tags of a row."""
        return Decoder(self.tags)

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the encoder with both heads, and its new parameters."""
        from luthier.models.token_head import start_token_head

        return grown_parts(start_token_head(model, output_names(self.intents, self.tags)), self.tokenizer)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows padded to the longest, with the first token of each word in `places`."""
        import torch

        batch = batch_of_windows(rows, self.tokenizer)
        targets = {"places": torch.from_numpy(filled([json.loads(record)["places"] for record in batch.records], UNREAD))}
        if rows[0].target is not None:
            targets["intents"] = torch.tensor([int(row.target[0]) for row in rows])
            targets["tags"] = torch.from_numpy(filled([row.target[1:] for row in rows], UNKNOWN))
        return replace(batch, targets=targets)

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows, and of words with a tag."""
        known = {"intent": batch.targets["intents"], "slots": batch.targets["tags"]}
        return {name: float((target != UNKNOWN).sum()) for name, target in known.items()}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the cross-entropy of the intents over the rows, and of the tags over the words."""
        from torch.nn import functional

        intents_BI, tags_BWS = self._scores(parts, batch)
        terms = {}
        pairs = (("intent", intents_BI, "intents"), ("slots", tags_BWS.flatten(0, 1), "tags"))
        for (name, scores, key), coefficient in zip(pairs, self.coefficients, strict=True):
            target = batch.targets[key].flatten()
            value = functional.cross_entropy(scores, target, ignore_index=UNKNOWN, reduction="sum")
            terms[name] = Term(value, (target != UNKNOWN).sum().to(value.dtype), coefficient)
        return terms

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the intents and of the tags."""
        return {"intent": self.intents, "slots": self.tags}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the scores of the intents, and of the tags of the words that are read."""
        from luthier.losses.distillation.told import Classes

        intents_BI, tags_BWS = self._read(given, batch)
        return {"intent": Classes(intents_BI), "slots": Classes(tags_BWS[batch.targets["places"] != UNREAD])}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows, and of words that are read."""
        return {"intent": float(len(batch.ids)), "slots": float((batch.targets["places"] != UNREAD).sum())}

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return of each row the scores of intents and tags, and what the row is."""
        intents_BI, tags_BWS = (scores.cpu().numpy() for scores in self._scores(parts, batch))
        numbers_B = [len(json.loads(record)["places"]) for record in batch.records]
        said = [Said(intents_BI[b], tags_BWS[b, :number], batch.records[b]) for b, number in enumerate(numbers_B)]
        return RowOutputs.of(batch.ids, said)

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return the scores, those of each intent and slot, and frames that are wrong."""
        rows: list[Said] = list(outputs.said)
        records = [json.loads(said.record) for said in rows]
        truth = [Frame(record["intent"], slots_of(record["tags"])) for record in records]
        predicted = [Frame(self._intent(said)[0], slots_of(self._tags(said))) for said in rows]
        wrong = [row for row, pair in enumerate(zip(truth, predicted, strict=True)) if pair[0] != pair[1]]
        wrong.sort(key=lambda row: (truth[row].intent == predicted[row].intent, -self._intent(rows[row])[1]))
        mistakes = [_mistake(int(outputs.ids[row]), truth[row], predicted[row], records[row]) for row in wrong[:MOST_MISTAKES]]
        return compared_frames(outputs.ids, truth, predicted, mistakes=mistakes)

    def mean_said(self, said: Sequence[Said]) -> Said:
        """Return the mean of the probabilities of the intents, and of the tags of each word."""
        return Said(mean_as_scores([one.intents for one in said]), mean_as_scores([one.tags for one in said]), said[0].record)

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return intent, its probability, and the slots with their places in the text."""
        return [Answer(self._frame(said), {}) for said in outputs.said]

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return the scores of the intents, then those of the tags of each word."""
        return [np.concatenate([said.intents, said.tags.ravel()]) for said in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts as rows, numbered from 0."""
        words = [words_of(text, self.words) for text in texts]
        encoded, places = encode_words(self.tokenizer, texts, words, max_length=self.max_length)
        records = [
            json.dumps({"text": text, "words": spans, "places": found}, ensure_ascii=False)
            for text, spans, found in zip(texts, words, places, strict=True)
        ]
        return rows_of(encoded, records)

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files with their frames, encoded; rows that cannot be used are counted and said."""
        rows = load_records(data, lambda row: frame_of(row, data, self.column, self.words), open_as=open_frames)
        names = output_names(self.intents, self.tags)
        return encoded_splits(rows, lambda table: laid_frames(table, self.tokenizer, self.max_length, names))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.token_head import save_token_head

        save_token_head(parts["model"].module, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        names = {"labels": output_names(self.intents, self.tags)}
        keep(folder, self.tokenizer, IntentAndSlots.registered_name, {**names, **self.describe()})

    def describe(self) -> dict[str, Any]:
        """Return intents, tags, lengths and the weights of the losses."""
        return as_kept(self, KEPT)

    def _scores(self, parts: Parts, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores of the intents `(B, I)`, and of the tags of each word `(B, W, S)`, in float32."""
        return self._read(self.given(parts, batch), batch)

    def _read(self, given: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        scores_BTL = given.logits.float()
        places_BW1 = batch.targets["places"].clamp(min=0).unsqueeze(-1)
        number = len(self.intents)
        tags_BTS = scores_BTL[..., number:]
        return scores_BTL[:, 0, :number], tags_BTS.gather(1, places_BW1.expand(-1, -1, tags_BTS.shape[-1]))

    def _intent(self, said: Said) -> tuple[str, float]:
        """Return the most probable intent of a row, and its probability."""
        best = int(said.intents.argmax())
        return self.intents[best], float(softmax(said.intents)[best])

    def _tags(self, said: Said) -> list[str]:
        """Return the tags of a row; words that are not read have none."""
        scores_WS = said.tags.astype(np.float64)
        unread = np.array([place == UNREAD for place in json.loads(said.record)["places"]], bool)
        scores_WS[unread] = np.where(np.array(self.tags) == OUTSIDE, 0.0, -np.inf)
        return self.decoder(scores_WS)

    def _frame(self, said: Said) -> dict[str, Any]:
        record, (intent, probability) = json.loads(said.record), self._intent(said)
        found = [(slot.name, record["words"][slot.first][0], record["words"][slot.end - 1][1]) for slot in slots_of(self._tags(said))]
        slots = [{"label": name, "text": record["text"][start:end], "start": start, "end": end} for name, start, end in found]
        return {"intent": intent, "probability": round(probability, 4), "slots": slots}


def _refuse_what_does_not_fit(data: DataSection) -> None:
    wrong = [
        ("data.text_pair", data.text_pair is not None, "intent-and-slots reads one text", "leave it out"),
        ("data.label_separator", data.label_separator is not None, "a text has one intent, such as a#b", "leave it out"),
        ("data.augment", bool(data.augment), "augmentation moves words away from their tags", "leave it out"),
        ("data.long_texts", data.long_texts != "truncate", "intent-and-slots has no windows", "raise data.max_length instead"),
    ]
    refuse(wrong)


def _mistake(id_: int, truth: Frame, predicted: Frame, record: dict[str, Any]) -> dict[str, Any]:
    return {"id": id_, "truth": _in_words(truth, record), "predicted": _in_words(predicted, record)}


def _in_words(frame: Frame, record: dict[str, Any]) -> str:
    """Write a frame for a person: intent, then each slot with its words."""
    spans, text = record["words"], record["text"]
    slots = [f"{name}: {text[spans[first][0] : spans[end - 1][1]]}" for name, first, end in frame.slots]
    return "; ".join([frame.intent, *slots])
