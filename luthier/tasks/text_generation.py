"""Text generation: a causal model learns to continue texts, to answer prompts, or to speak.

B rows, T tokens, S supervised tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.core.errors import ConfigError, DataError, Fault, refuse
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.work import Batch, Part, Parts, Shown
from luthier.data.dialogues import spoken_in
from luthier.data.prepared import Prepared, PreparedSplit, Row, encoded_table
from luthier.data.reading import RowFault
from luthier.data.section import DataSection
from luthier.losses.cross_entropy import CrossEntropy
from luthier.losses.loss import Loss
from luthier.metrics.likelihoods import SCORES
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import Task, WritingWork
from luthier.tasks.text.generation_layout import laid_out, learnt_places, left_padded, unpadded
from luthier.tasks.text.kept import keep, settings_among
from luthier.tasks.text.learnt_tokens import loss_over_tokens
from luthier.tasks.text.writing import in_manner, write

if TYPE_CHECKING:
    from luthier.tasks.text.generation_preparation import Writing
    from luthier.tasks.text.talk import Talk

log = logging.getLogger("luthier")
GREEDY = {"temperature": 0.0, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "choices": ()}
OPENING = 32
"""Tokens of a plain text that a sample begins with."""


@tasks.add
class TextGeneration(Task):
    """How a text goes on: documents to continue, prompts with responses, or conversations."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "text"
    primary_metric = "loss"
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    template: str = Field(
        "auto",
        description="How prompts are put: chat (the tokenizer's template), chatml, llama3, plain or alpaca (ours), a chat template of your "
        "own in Jinja, or a text with {prompt} and {input}; auto: chat, else alpaca for instructions and plain for conversations.",
    )
    learn: Literal["all-answers", "last-answer"] = Field(
        "all-answers", description="Which answers of a conversation are learnt: all of the assistant's, or the last alone."
    )
    train_on_prompt: bool = Field(False, description="Whether the prompts are learnt too, not only the responses.")
    max_new_tokens: int = Field(128, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(0.0, ge=0, description="0 writes the most likely token each time; higher draws from the probabilities.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the most likely tokens that hold this share of the probability.")
    top_k: int = Field(0, ge=0, description="Draw from so many of the most likely tokens; 0: from all.")
    min_p: float = Field(0.0, ge=0, lt=1, description="Draw from tokens with at least this share of the most likely one's probability.")
    num_beams: int = Field(1, ge=1, description="Beginnings of an answer that are followed at once; the most likely whole is written.")
    repetition_penalty: float = Field(1.0, gt=0, description="Above 1, tokens that stand there already become less likely.")
    no_repeat_ngram_size: int = Field(0, ge=0, description="No run of so many tokens is written twice; 0: any may be.")
    choices: tuple[str, ...] = Field((), description="Answers that are allowed, such as [yes, no]; none: any.")
    samples: int = Field(4, ge=0, description="Held-out prompts that the tuned and the untuned model answer in the report.")

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        from luthier.tasks.text.generation_preparation import prepare_generation

        self._refuse_what_does_not_fit(data)
        return prepare_generation(data, model, template=self.template, learn=self.learn)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> TextGenerationWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if another loss than cross-entropy is wanted.
        """
        from luthier.models.pretrained import open_tokenizer

        loss = loss_over_tokens(loss, self.registered_name)
        template = prepared.facts["tokens"]["template"]
        tokenizer = open_tokenizer(prepared.tokenizer)
        return TextGenerationWork(tokenizer, prepared.max_length, template, self, loss, packing=data.packing)

    def reopen(self, folder: Path) -> TextGenerationWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        if not (folder / SETTINGS).is_file():
            return self._of_plain(folder)
        tokenizer, found = open_tokenizer(folder), read_settings(folder)
        settings = settings_among(TextGeneration, found)
        return TextGenerationWork(tokenizer, found["max_length"], found["prompts"], settings, CrossEntropy())

    def restore(self, folder: Path) -> tuple[TextGenerationWork, Parts]:
        """Return the work and the decoder saved in `folder`."""
        from luthier.models.causal import load_decoder
        from luthier.tasks.text.decoder import Decoder

        return self.reopen(folder), {"model": Part(Decoder(load_decoder(folder)), "frozen")}

    def _of_plain(self, folder: Path) -> TextGenerationWork:
        """Return the work of a folder that plain transformers wrote."""
        from luthier.models.pretrained import load_config, load_tokenizer, max_length

        tokenizer = load_tokenizer(str(folder))
        longest = max_length(tokenizer, load_config(str(folder)))
        return TextGenerationWork(tokenizer, longest, "chat" if tokenizer.chat_template else None, self, CrossEntropy())

    def _refuse_what_does_not_fit(self, data: DataSection) -> None:
        wrong = [
            ("data.label", data.label is not None, "texts to be written have no labels", "name the response: data.text=..."),
            ("data.text_pair", data.text_pair is not None, "text-generation has prompts, not pairs", "data.prompt=... data.text=..."),
            ("data.augment", bool(data.augment), "augmentation changes texts that are to be learnt as they are", "leave it out"),
            ("data.long_texts", data.long_texts != "truncate", "text-generation has no windows", "plain text comes in blocks anyway"),
        ]
        refuse(wrong)


@dataclass(frozen=True)
class TextGenerationWork(WritingWork):
    """Text generation with a known tokenizer.

    Args:
        tokenizer: A fast tokenizer that knows an end of text.
        max_length: Most tokens in a row.
        template: How prompts are put, or None where rows are plain text.
        settings: The task's settings.
        loss: Cross-entropy, perhaps smoothed.
        packing: Whether rows are laid end to end; otherwise they are padded.
    """

    tokenizer: Any
    max_length: int
    template: str | None
    settings: TextGeneration
    loss: CrossEntropy
    packing: bool = True

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the decoder, and its parameters that were not in its files."""
        from luthier.models.causal import start_decoder
        from luthier.models.content import has_content
        from luthier.models.packed import keeps_apart
        from luthier.tasks.text.decoder import Decoder

        loaded = start_decoder(model, self.tokenizer)
        decoder = Decoder(loaded.model)
        if self.packing and has_content(decoder) and not keeps_apart(loaded.model, self.max_length):
            what = f"rows laid end to end would see each other, or not all of themselves, in a {loaded.model.config.model_type}"
            raise ConfigError([Fault("data.packing", what, "data.packing=false pads them instead")])
        return {"model": Part(decoder)}, frozenset(f"model.{name}" for name in loaded.new)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows laid end to end without padding, or padded; with the places and tokens that are learnt."""
        return laid_out(rows, self.tokenizer.pad_token_id or 0, packing=self.packing, whole=self.settings.train_on_prompt)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return prompts, and perhaps the inputs they are about, as rows numbered from 0; long ones lose their beginning."""
        found = self.prompt_tokens(list(texts), None if pairs is None else list(pairs))
        most = self.max_length - 1
        cut = sum(len(tokens) > most for tokens in found)
        if cut:
            log.warning("%d prompts are longer than %d tokens and lost their beginning", cut, most)
        return [Row(index, [tokens[-most:]], None, None) for index, tokens in enumerate(found)]

    def shown(self, row: Row, prepared: Prepared) -> Shown:
        """Return a row with the tokens that are learnt marked; see `Work.shown`."""
        from luthier.tasks.text.shown import pieces_of

        num = len(row.windows[0])
        learnt = learnt_places(row.target, num, self.settings.train_on_prompt)
        return Shown(pieces_of(self.tokenizer, row.windows[0], learnt.tolist()), f"{len(learnt)} of {num} tokens")

    def writing(self, **manner: Any) -> TextGenerationWork:
        """Return the work with other settings of how an answer is written; see `WritingWork.writing`."""
        return replace(self, settings=in_manner(self.settings, manner))

    def opening(self, row: Row) -> Row:
        """Return what the model is shown of a row before it writes: the prompt, or the first tokens of a plain text."""
        if np.ndim(row.target):
            start = max(1, int(row.target[-2]))  # before the last answer that is learnt
        else:
            start = int(row.target) or max(1, min(OPENING, len(row.windows[0]) // 2))
        return Row(row.id, [row.windows[0][:start]], None, None)

    def prompted(self, rows: Sequence[Row]) -> Batch:
        """Return prompts as a batch to write from: padded at the left, so that all end together."""
        return left_padded(rows, self.tokenizer.pad_token_id or 0)

    def written(
        self, parts: Parts, batch: Batch, *, max_new_tokens: int | None = None, greedy: bool = False, **others: Any
    ) -> list[tuple[int, str, np.ndarray]]:
        """Return for each prompt its id, the text that the model writes, and the logits `(V,)` of its first token.

        Args:
            parts: Its modules.
            batch: Prompts, padded at the left.
            max_new_tokens: Most tokens to write; none: as the settings say.
            greedy: Write the most likely token each time, whatever the settings say.
            others: What `generate` is called with besides, such as a streamer.
        """
        changes: dict[str, Any] = {"max_new_tokens": max_new_tokens or self.settings.max_new_tokens}
        manner = self.settings.model_copy(update=changes | (GREEDY if greedy else {}))
        choices = [tokens.tolist() for tokens in self._writing.closed(list(manner.choices))] if manner.choices else ()
        alone = manner.repetition_penalty != 1 or manner.no_repeat_ngram_size  # these would look at the padding too
        batches = unpadded(batch) if alone else [batch]
        return [
            one
            for each in batches
            for one in write(parts["model"].module, self.tokenizer, each, manner, end=self.end, choices=choices, **others)
        ]

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files, encoded; rows that cannot be used are counted and said."""
        from luthier.tasks.text.generation_preparation import read_texts, write_rows

        texts = read_texts(data)
        if texts.dialogues is not None and self.talk is None:
            what = "the rows are conversations, and this run was trained on prompts that stand alone"
            raise DataError(what, where="data", fix="name rows with a prompt and a response")
        splits, said = {}, [*texts.notes, *texts.rows.notes]
        for name, table in texts.rows.splits.items():
            source = str(getattr(data, name))
            written = write_rows(table, self._writing, split=name, source=source, first_id=1, learn=self.settings.learn)
            splits[name] = PreparedSplit(encoded_table(written.table, written.encoded, written.targets))
            said += [f"{len(written.bad)} rows left out: " + ", ".join(sorted({bad.kind for bad in written.bad}))] if written.bad else []
        for note in said:
            log.info(note)
        return splits

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the decoder, the tokenizer and what `restore` needs."""
        decoder: Any = parts["model"].module
        settings = decoder.model.generation_config
        ends = {self.tokenizer.eos_token_id, self.end}
        if len(ends) > 1 and settings is not None:
            settings.eos_token_id = sorted(ends)
        decoder.model.save_pretrained(folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        settings = self.settings.model_dump(mode="json", exclude={"type"})
        kept = {**settings, "max_length": self.max_length, "prompts": self.template}
        keep(folder, self.tokenizer, TextGeneration.registered_name, kept)

    def describe(self) -> dict[str, Any]:
        """Return lengths, template and loss."""
        return {"max_length": self.max_length, "template": self.template, "loss": self.loss.model_dump()}

    @property
    def talk(self) -> Talk | None:
        """How conversations are put to the model; None where it was trained on prompts that stand alone, or on plain text."""
        return self._writing.talk

    @property
    def end(self) -> int:
        """Token that ends an answer."""
        return self._writing.end

    def prompt_tokens(self, texts: list[str], inputs: list[str] | None = None) -> list[np.ndarray]:
        """Return prompts, or conversations in JSON, as the model reads them.

        Args:
            texts: Prompts; a list of turns in JSON, or an object with `messages` and `tools`, is a conversation.
            inputs: What each prompt is about, or None.

        Raises:
            DataError: if a conversation cannot be answered.
        """
        spoken, talk = {place: found for place, text in enumerate(texts) if (found := spoken_in(text)) is not None}, self.talk
        if spoken and talk is None:
            fix = "give it one prompt each; or train it with task.template=chat, plain, chatml or alpaca"
            raise DataError("got a conversation, and this run answers prompts that stand alone", fix=fix)
        rest = [place for place in range(len(texts)) if place not in spoken]
        about = None if inputs is None else [inputs[place] for place in rest]
        tokens = dict(zip(rest, self._writing.prompts([texts[place] for place in rest], about), strict=True))
        for place, (turns, tools) in spoken.items():
            assert talk is not None
            try:
                tokens[place] = talk.asked(turns, tools)
            except RowFault as fault:
                raise DataError(f"conversation {place + 1} cannot be answered: {fault}", fix="mend it, or leave it out") from None
        return [tokens[place] for place in range(len(texts))]

    @cached_property
    def _writing(self) -> Writing:
        from luthier.tasks.text.generation_preparation import Writing

        return Writing(self.tokenizer, self.max_length, self.template)
