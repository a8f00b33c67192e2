"""Fill-mask: an encoder learns to tell which words are hidden in texts, as it was pretrained; for texts of a field, without labels.

B rows, T tokens, S masked places, K likeliest words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from luthier.core.errors import DataError, refuse
from luthier.core.model_folder import read_settings
from luthier.core.work import Answer, Batch, Part, Parts, RowOutputs, Shown, Terms
from luthier.data.encode import encode
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.section import Column, DataSection
from luthier.losses.cross_entropy import CrossEntropy
from luthier.losses.loss import Loss
from luthier.metrics.likelihoods import SCORES
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.filled import Said, answer_of, scores_of, word_of
from luthier.tasks.text.kept import keep, settings_among
from luthier.tasks.text.learnt_tokens import loss_over_tokens, losses_of_learnt, number_learnt, states_learnt, words_told
from luthier.tasks.text.mask_preparation import Blocks, Laying, in_blocks, lay_out, load_texts
from luthier.tasks.text.masking import Masked, Masking
from luthier.tasks.text.records_preparation import Reader, encoded_splits, prepare_records
from luthier.tasks.text.windows import batch_of_windows, rows_of

if TYPE_CHECKING:
    from luthier.losses.distillation.told import Told

log = logging.getLogger("luthier")
NUM_WORDS = 5
MOST_ASKED = 64


@tasks.add
class FillMask(Task):
    """Which words are hidden in a text: pretraining that goes on with texts of your field, without labels."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = "loss"
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    mlm_probability: float = Field(0.15, gt=0, lt=1, description="Share of the tokens of a row that are hidden; at least one is.")
    mask_replace_prob: float = Field(0.8, ge=0, le=1, description="Share of the hidden tokens in whose place the mask stands.")
    random_replace_prob: float = Field(
        0.1, ge=0, le=1, description="Share of the hidden tokens in whose place a random token stands; the others stay as they are."
    )
    whole_words: bool = Field(
        False, description="Hide all pieces of a word together; a Chinese character is a word, unless words are named."
    )
    words: Column | None = Field(
        None, description="Column with the words of each text, spaces between them, for languages written without; needs whole_words."
    )
    blocks: Blocks = Field(
        "auto", description="Lay texts end to end in rows of data.max_length; auto: those of a .txt file, not rows with a text each."
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> FillMask:
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            got = f"{self.mask_replace_prob:g} + {self.random_replace_prob:g}"
            raise ValueError(f"mask_replace_prob and random_replace_prob are shares of the hidden tokens: got {got}, wanted at most 1")
        if self.words is not None and not self.whole_words:
            raise ValueError("words says which tokens are hidden together: set task.whole_words=true, or leave task.words out")
        if self.words is not None and self.blocks is True:
            raise ValueError("words are those of a row's text, and blocks lays texts end to end: leave one of them out")
        return self

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the texts."""
        self._refuse_what_does_not_fit(data, model)
        numbers, laid_in_blocks = count(1), list[bool]()

        def load() -> Any:
            rows = load_texts(data, self.words)
            laid_in_blocks.append(in_blocks(self.blocks, rows))
            return rows

        reader = Reader(
            settings={"task": self.registered_name, "words": self.words, "blocks": self.blocks},
            load=load,
            labels=lambda _: (),
            lay_out=lambda table, tokenizer, longest, _: lay_out(
                table, Laying(tokenizer, longest, laid_in_blocks[0], self.words is not None), numbers, data
            ),
        )
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> FillMaskWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if another loss than cross-entropy is wanted.
        """
        from luthier.models.pretrained import open_tokenizer

        loss = loss_over_tokens(loss, self.registered_name)
        return FillMaskWork(open_tokenizer(prepared.tokenizer), prepared.max_length, self, loss)

    def reopen(self, folder: Path) -> FillMaskWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        found = read_settings(folder)
        return FillMaskWork(open_tokenizer(folder), found["max_length"], settings_among(FillMask, found), CrossEntropy())

    def restore(self, folder: Path) -> tuple[FillMaskWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.masked import load_masked
        from luthier.tasks.text.masked_reader import MaskedReader

        return self.reopen(folder), {"model": Part(MaskedReader(load_masked(folder)).eval(), "frozen")}

    def _refuse_what_does_not_fit(self, data: DataSection, model: ModelSection) -> None:
        wrong = [
            ("model.scratch", model.scratch is not None, "an encoder from nothing is not built here", "name one: model.path=..."),
            ("data.text_pair", data.text_pair is not None, "fill-mask reads one text a row", "leave it out"),
            ("data.prompt", data.prompt is not None, "fill-mask has no prompts", "data.text=... names the texts"),
            ("data.augment", bool(data.augment), "the masks vary from epoch to epoch already", "leave it out"),
            ("data.long_texts", data.long_texts != "truncate", "long texts go on in rows of their own anyway", "leave it out"),
        ]
        refuse(wrong)


@dataclass(frozen=True)
class FillMaskWork(RowWork):
    """Fill-mask with a known tokenizer.

    Args:
        tokenizer: A fast tokenizer with a mask token.
        max_length: Most tokens in a row.
        settings: The task's settings.
        loss: Cross-entropy, perhaps smoothed.
    """

    tokenizer: Any
    max_length: int
    settings: FillMask
    loss: CrossEntropy

    @cached_property
    def masking(self) -> Masking:
        """How training rows are masked, and held-out ones where their masks are fixed."""
        special = {*self.tokenizer.all_special_ids}
        words = np.array([token for token in sorted(self.tokenizer.get_vocab().values()) if token not in special], np.int32)
        chosen = self.settings
        shares = (chosen.mlm_probability, chosen.mask_replace_prob, chosen.random_replace_prob)
        return Masking(*shares, chosen.whole_words, self.tokenizer.mask_token_id, words)

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the model, and its parameters that were not in its files; says where its head is new."""
        from luthier.models.masked import start_masked
        from luthier.tasks.text.masked_reader import MaskedReader

        loaded = start_masked(model, self.tokenizer)
        if any(not name.endswith(".new") for name in loaded.new):
            log.info("%s has no head for masked words: a new one is learnt, over the words that the model reads", model.path)
        return {"model": Part(MaskedReader(loaded.model))}, frozenset(f"model.{name}" for name in loaded.new)

    def item(self, row: Row, rng: np.random.Generator) -> Row:
        """Return the row with the mask of this epoch."""
        tokens_T, hidden = self.masking.applied(row.windows[0], row.target, rng)
        return Row(row.id, [tokens_T], None, hidden)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one padded batch; those that `item` did not mask have the mask of their id, new texts the masks in them."""
        import torch

        shown = [self._fixed(row) if isinstance(row.target, np.ndarray) else row for row in rows]
        batch = batch_of_windows(shown, self.tokenizer)
        width = batch.inputs["input_ids"].shape[1]
        places = [self._places(row) for row in shown]
        targets = {
            "at": np.concatenate([number * width + found for number, found in enumerate(places)]),
            "row": np.repeat(np.arange(len(shown)), [len(found) for found in places]),
        }
        if shown[0].target is not None:
            targets["tokens"] = np.concatenate([row.target.tokens_M for row in shown])
        return replace(batch, targets={name: torch.from_numpy(found.astype(np.int64)) for name, found in targets.items()})

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of masked tokens."""
        return number_learnt(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the one loss term."""
        return losses_of_learnt(parts, batch, self.loss)

    def given(self, parts: Parts, batch: Batch) -> Any:
        """Return what the vocabulary is multiplied by at the masked places."""
        return states_learnt(parts, batch)

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the words that are expected at the masked places."""
        return words_told(parts, given)

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of masked tokens."""
        return self.weights(batch)

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return of each row how likely its hidden tokens are; of new texts, the likeliest words."""
        reader: Any = parts["model"].module
        at_S, owners_S = batch.targets["at"], batch.targets["row"].cpu().numpy()
        cuts = np.searchsorted(owners_S, np.arange(1, len(batch.ids)))
        if "tokens" not in batch.targets:
            found = [one.numpy() for one in reader.likeliest(batch.inputs, at_S, NUM_WORDS)]
            return RowOutputs.of(batch.ids, [Said(*one) for one in zip(*(np.split(some, cuts) for some in found), strict=True)])
        nats_S, best_S = reader.scores(batch.inputs, at_S, batch.targets["tokens"])
        columns = (best_S.numpy()[:, None], -nats_S.double().numpy()[:, None], batch.targets["tokens"].cpu().numpy())
        return RowOutputs.of(batch.ids, [Said(*one) for one in zip(*(np.split(some, cuts) for some in columns), strict=True)])

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return loss, perplexity and token accuracy, and the rows whose hidden words the model finds least likely."""
        return scores_of(outputs, self.tokenizer)

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return for each mask of a text the likeliest words, best first, with their probabilities."""
        return [answer_of(one, self.tokenizer) for one in outputs.said]

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return the log-probabilities of each row."""
        return [one.logs_SK for one in outputs.said]

    def asked(self, row: Row, text: str) -> tuple[Row, str]:
        """Return the beginning of a row with its fixed places masked, as a new text."""
        free = (row.target >= 0).nonzero()[0]
        begin, end = free[0], min(free[0] + MOST_ASKED, free[-1] + 1)
        tokens_T, marks_T = row.windows[0][begin:end], row.target[begin:end]
        asking = replace(self.masking, mask=1.0, random=0.0)
        masked = self.tokenizer.decode(asking.fixed(tokens_T, marks_T, row.id)[0])
        return replace(next(iter(self._rows([masked]))), id=row.id), masked

    def shown(self, row: Row, prepared: Prepared) -> Shown:
        """Return a row with its hidden places marked, and the words that stood there; see `Work.shown`."""
        from luthier.tasks.text.shown import pieces_of

        words = " ".join(word_of(self.tokenizer, token) for token in row.target.tokens_M)
        return Shown(pieces_of(self.tokenizer, row.windows[0], row.target.places_M), words)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return texts with masks as rows, numbered from 0; what is longer than a row is cut.

        Raises:
            DataError: if a text has no mask, or none in the part that the model reads.
        """
        mask = self.tokenizer.mask_token
        if pairs is not None:
            raise DataError("fill-mask reads one text a row, and got pairs", where="data.text_pair", fix="leave it out")
        rows = list(self._rows(texts))
        for number, (row, text) in enumerate(zip(rows, texts, strict=True), 1):
            if len(self._places(row)):
                continue
            what = f"text {number} has no {mask}" if mask not in text else f"no {mask} of text {number} is among its first tokens"
            fix = f"write {mask} in the place of a word" if mask not in text else f"shorten it to {self.max_length} tokens"
            raise DataError(f"{what}: {text[:80]!r}", where="TEXT", fix=f"{fix}, such as 'my card was {mask}'")
        return rows

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return texts of other files, encoded; rows that cannot be used are counted and said."""
        rows = load_texts(data, self.settings.words)
        laying = Laying(self.tokenizer, self.max_length, in_blocks(self.settings.blocks, rows), self.settings.words is not None)
        numbers = count(1)
        return encoded_splits(rows, lambda table: lay_out(table, laying, numbers, data))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.masked import save_masked

        reader: Any = parts["model"].module
        save_masked(reader.model, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        settings = self.settings.model_dump(mode="json", exclude={"type"})
        keep(folder, self.tokenizer, FillMask.registered_name, {**settings, "max_length": self.max_length})

    def describe(self) -> dict[str, Any]:
        """Return the length of rows, how they are masked, and the loss."""
        return {"max_length": self.max_length, **self.settings.model_dump(mode="json"), "loss": self.loss.model_dump()}

    def _rows(self, texts: Sequence[str]) -> Iterable[Row]:
        return rows_of(encode(self.tokenizer, texts, max_length=self.max_length))

    def _fixed(self, row: Row) -> Row:
        tokens_T, hidden = self.masking.fixed(row.windows[0], row.target, row.id)
        return Row(row.id, [tokens_T], None, hidden)

    def _places(self, row: Row) -> np.ndarray:
        """Return the masked places of a row: what it hides, or where a new text has masks."""
        if isinstance(row.target, Masked):
            return row.target.places_M
        return (row.windows[0] == self.tokenizer.mask_token_id).nonzero()[0]
