"""Documents and instruction rows to encoded rows on disk, by way of the cache."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core import files
from luthier.core.errors import DataError
from luthier.data.cache import cached_folder, content_key, source_hashes
from luthier.data.collect import refuse_too_many
from luthier.data.dialogues import Dialogues, dialogues_in, load_dialogues
from luthier.data.documents import load_documents, with_prompt_columns
from luthier.data.encode import Encoded
from luthier.data.prepared import Prepared, encoded_table, write_split
from luthier.data.reading import BadRow, RowFault, excerpt
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.models import pretrained
from luthier.models.causal import decoder_config
from luthier.models.scratch import open_words, words_fingerprint
from luthier.models.section import ModelSection
from luthier.tasks.text.conversation_preparation import spoken_rows
from luthier.tasks.text.preparation import LONGEST_BY_DEFAULT, length_facts
from luthier.tasks.text.talk import Talk
from luthier.tasks.text.template_safety import require_safe
from luthier.tasks.text.templates import Chosen, choose_template, rendered
from luthier.tasks.text.unlearnt import UNLEARNT, refuse_unlearnt, unlearnt

CHUNK = 4096
SHORTEST_BLOCK = 2


def prepare_generation(data: DataSection, model: ModelSection, *, template: str, learn: str = "all-answers") -> Prepared:
    """Read, clean, split and encode texts that a model learns to write; the same content and settings are taken from the cache.

    Args:
        data: Where the rows are; with `messages` or `prompt` (or usual names) they are conversations or instructions, else plain text in
            blocks of `max_length`.
        model: Whose tokenizer encodes them.
        template: How prompts are put.
        learn: Which answers of a conversation are learnt: all-answers or last-answer.

    Raises:
        DataError: if the rows cannot be used.
        SetupError: if the tokenizer cannot be loaded.
    """
    if data.train is None:
        raise DataError("no training rows are named", where="data.train", fix="name a file: --data rows.jsonl")
    sources = [source_hashes(path) for path in (data.train, data.validation, data.test)]
    key = content_key(
        {
            "task": "text-generation",
            "sources": sources,
            "data": data.model_dump(mode="json", exclude={"augment", "cache", "packing"}),
            "tokenizer": words_fingerprint(model),
            "scratch": model.scratch,
            "template": template,
            "learn": learn,
            "extend": model.extend_vocabulary,
            "tokenizers": version("tokenizers"),
        }
    )
    folder, found = cached_folder(key, lambda to: _fill(to, data, model, template, learn), reuse=data.cache and None not in sources)
    return Prepared.open(folder, from_cache=found)


@dataclass(frozen=True)
class Writing:
    """How texts become tokens.

    Args:
        tokenizer: A fast tokenizer that knows an end of text.
        max_length: Most tokens in a row.
        template: How prompts are put, or None where rows are plain text.
    """

    tokenizer: Any
    max_length: int
    template: str | None

    def opened(self, texts: list[str]) -> list[np.ndarray]:
        """Return the tokens of texts that go on: with what the tokenizer puts before a text, without what it puts after one."""
        end = self.tokenizer.eos_token_id
        found = [encoding.ids for start in range(0, len(texts), CHUNK) for encoding in self._encoded(texts[start : start + CHUNK], True)]
        return [np.asarray(ids[:-1] if len(ids) > 1 and ids[-1] == end else ids, np.int32) for ids in found]

    @cached_property
    def talk(self) -> Talk | None:
        """How conversations are put; None where prompts stand alone."""
        return Talk.of(self.tokenizer, self.template)

    @cached_property
    def end(self) -> int:
        """Token that ends an answer: the mark of the chat template, or the end of text."""
        if self.template == "chat" and self.talk is not None:
            with suppress(RowFault):  # of a template that asks for answers otherwise than it writes them
                return self.talk.end
        return int(self.tokenizer.eos_token_id)

    def closed(self, texts: list[str]) -> list[np.ndarray]:
        """Return the tokens of texts that something stands before, each with the end of an answer."""
        end = self.end
        chunks = (self._encoded(texts[start : start + CHUNK], False) for start in range(0, len(texts), CHUNK))
        return [np.asarray([*encoding.ids, end], np.int32) for chunk in chunks for encoding in chunk]

    def prompts(self, prompts: list[str], inputs: list[str] | None) -> list[np.ndarray]:
        """Return the tokens of prompts as the model reads them before it writes."""
        if self.template is None:
            return self.opened(prompts)
        if self.template == "chat":
            require_safe(self.tokenizer)
        pairs = zip(prompts, inputs or [""] * len(prompts), strict=True)
        texts = [rendered(self.template, prompt, given, self.tokenizer) for prompt, given in pairs]
        if self.template != "chat":
            return self.opened(texts)
        return [tokens[:-1] for tokens in self.closed(texts)]

    def _encoded(self, texts: list[str], special: bool) -> list[Any]:
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        return list(backend.encode_batch_fast(texts, add_special_tokens=special))


@dataclass(frozen=True)
class Written:
    """One split as rows of tokens.

    Args:
        table: Columns `id`, `row`, `text` and, of instruction rows, `prompt` and `prompt_input`.
        encoded: Their tokens.
        targets: First token of each row that is learnt; or, of conversations, where the learnt stretches of each begin and end.
        bad: Rows without room for a response, and conversations that the template does not take.
    """

    table: pa.Table
    encoded: Encoded
    targets: np.ndarray | list[np.ndarray]
    bad: list[BadRow]


@dataclass(frozen=True)
class Texts:
    """What was read, and how.

    Args:
        rows: Documents, instructions or conversations.
        data: The `data` section with its columns.
        dialogues: Which columns conversations stand in, or None.
        notes: What was guessed.
    """

    rows: Rows
    data: DataSection
    dialogues: Dialogues | None
    notes: list[str]


def read_texts(data: DataSection) -> Texts:
    """Read the rows of a recipe: conversations, instructions or documents, by what it names or by the usual names of columns.

    Args:
        data: The `data` section of the recipe.

    Raises:
        DataError: if the data is missing, unreadable or mostly bad.
    """
    dialogues, said = dialogues_in(data)
    if dialogues is not None:
        return Texts(load_dialogues(data, dialogues), data, dialogues, said)
    data, guessed = with_prompt_columns(data)
    return Texts(load_documents(data), data, None, guessed)


def write_rows(table: pa.Table, writing: Writing, *, split: str, source: str, first_id: int, learn: str = "all-answers") -> Written:
    """Encode one split: conversations and instruction rows one by one, plain text in blocks.

    Args:
        table: What `read_texts` gave.
        writing: How texts become tokens.
        split: Name of the split.
        source: What to call the rows in the bad ones.
        first_id: Sample id of the first block of plain text, or of the first conversation.
        learn: Which answers of a conversation are learnt: all-answers or last-answer.
    """
    if "record" in table.column_names:
        return _conversations(table, writing, split=split, source=source, first_id=first_id, learn=learn)
    return _instructions(table, writing, split, source) if writing.template is not None else _blocks(table, writing, first_id)


def _instructions(table: pa.Table, writing: Writing, split: str, source: str) -> Written:
    inputs = table["prompt_input"].to_pylist() if "prompt_input" in table.column_names else None
    prompts, answers = writing.prompts(table["prompt"].to_pylist(), inputs), writing.closed(table["text"].to_pylist())
    room = np.array([len(prompt) < writing.max_length for prompt in prompts], bool)
    whole = [np.concatenate(pair) for pair, fits in zip(zip(prompts, answers, strict=True), room, strict=True) if fits]
    starts_N = np.array([len(prompt) for prompt, fits in zip(prompts, room, strict=True) if fits], np.int64)
    taken = table.filter(pa.array(~room))
    reason = unlearnt(f"no room for the response: the prompt alone has {writing.max_length} tokens or more")
    bad = [
        BadRow(source, row, reason, excerpt(text), split)
        for row, text in zip(taken["row"].to_pylist(), taken["prompt"].to_pylist(), strict=True)
    ]
    return Written(table.filter(pa.array(room)), _encoded(whole, writing.max_length), starts_N, bad)


def _conversations(table: pa.Table, writing: Writing, *, split: str, source: str, first_id: int, learn: str) -> Written:
    assert writing.talk is not None
    last = learn == "last-answer"
    spoken = spoken_rows(table, writing.talk, max_length=writing.max_length, last=last, split=split, source=source)
    encoded = _encoded([laid.tokens for laid in spoken.laid], writing.max_length)
    encoded = replace(encoded, too_long_N=np.asarray(spoken.too_long, bool))
    ids = pa.array(first_id + np.arange(len(spoken.laid)), pa.int64())
    taken = table.drop_columns(["record", "id"]).take(pa.array(spoken.places, pa.int64())).add_column(0, "id", ids)
    return Written(taken, encoded, spoken.targets, spoken.bad)


def _blocks(table: pa.Table, writing: Writing, first_id: int) -> Written:
    end = np.asarray([writing.tokenizer.eos_token_id], np.int32)
    documents = writing.opened(table["text"].to_pylist())
    stream = np.concatenate([part for document in documents for part in (document, end)])
    blocks = [stream[start : start + writing.max_length] for start in range(0, len(stream), writing.max_length)]
    blocks = [block for block in blocks if len(block) >= SHORTEST_BLOCK]
    numbers = np.arange(len(blocks))
    texts = writing.tokenizer.batch_decode(blocks)
    rows = pa.table({"id": pa.array(first_id + numbers, pa.int64()), "row": pa.array(1 + numbers, pa.int64()), "text": texts})
    return Written(rows, _encoded(blocks, writing.max_length), np.zeros(len(blocks), np.int64), [])


def _encoded(rows: list[np.ndarray], longest: int) -> Encoded:
    lengths = np.array([len(row) for row in rows], np.int32)
    kept = [row[:longest] for row in rows]
    tokens = np.concatenate(kept) if kept else np.zeros(0, np.int32)
    return Encoded(tokens, np.minimum(lengths, longest), np.ones(len(rows), np.int32), lengths > longest)


def _fill(folder: Path, data: DataSection, model: ModelSection, template: str, learn: str) -> None:
    tokenizer = open_words(model)
    limit = pretrained.max_length(tokenizer, decoder_config(model, tokenizer))
    longest = min(limit, LONGEST_BY_DEFAULT) if data.max_length == "auto" else min(data.max_length, limit)
    texts = read_texts(data)
    rows, chosen = texts.rows, _template(template, texts, tokenizer, extend=model.extend_vocabulary)
    writing = Writing(tokenizer, longest, None if chosen is None else chosen.template)
    facts: dict[str, Any] = {"max_length": longest, "template": writing.template, "truncated": {}}
    bad, next_id = list(rows.bad), 1
    for name, table in rows.splits.items():
        source = rows.facts["sources"].get(name, rows.facts["sources"].get("train", {})).get("source", name)
        written = write_rows(table, writing, split=name, source=source, first_id=next_id, learn=learn)
        refuse_unlearnt([one for one in written.bad if one.kind == UNLEARNT], table.num_rows, data, source=source)
        refuse_too_many([one for one in written.bad if one.kind != UNLEARNT], table.num_rows, data.max_bad_rows, source=source)
        bad += written.bad
        next_id += written.table.num_rows
        write_split(folder / f"{name}.arrow", encoded_table(written.table, written.encoded, written.targets))
        rows.facts["splits"][name]["rows"] = written.table.num_rows
        facts["truncated"][name] = int(written.encoded.too_long_N.sum())
        facts |= length_facts(written.encoded) if name == "train" else {}
    said = _spoken_notes(facts, bad[len(rows.bad) :]) if texts.dialogues is not None else _notes(facts, bad, len(rows.bad))
    notes = [*texts.notes, *rows.notes, *(() if chosen is None else chosen.notes), *said]
    tokenizer.save_pretrained(folder / "tokenizer")
    files.write_json(folder / "data.json", {**rows.facts, "tokens": facts, "notes": notes})
    files.write_json_lines(folder / "quarantine.jsonl", (one.as_dict() for one in bad))
    files.write_json(folder / "prepared.json", {"splits": list(rows.splits), "labels": [], "multi_label": False, "max_length": longest})


def _template(wanted: str, texts: Texts, tokenizer: Any, *, extend: bool) -> Chosen | None:
    """Return how prompts are put; None of plain text."""
    if texts.dialogues is None and texts.data.prompt is None:
        return None
    return choose_template(wanted, tokenizer, turns=texts.dialogues is not None, extend=extend)


def _spoken_notes(facts: dict[str, Any], bad: list[BadRow]) -> list[str]:
    limit = facts["max_length"]
    notes = [
        f"{split}: {count} conversations are longer than {limit} tokens and lost their last turns, or the end of their only answer"
        for split, count in facts["truncated"].items()
        if count
    ]
    reasons = Counter(one.kind for one in bad)
    if bad:
        notes.append(f"{len(bad)} conversations left out: " + ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()))
    return notes


def _notes(facts: dict[str, Any], bad: list[BadRow], num_read_bad: int) -> list[str]:
    limit = facts["max_length"]
    cut = {split: count for split, count in facts["truncated"].items() if count}
    notes = [
        f"{split}: {count} rows are longer than {limit} tokens and their responses were cut (data.max_length)"
        for split, count in cut.items()
    ]
    if facts["template"] is None:
        notes.append(f"plain text: blocks of {limit} tokens, texts joined by the end of text")
    if len(bad) > num_read_bad:
        notes.append(f"{len(bad) - num_read_bad} rows left out: their prompts alone have {limit} tokens or more")
    return notes
