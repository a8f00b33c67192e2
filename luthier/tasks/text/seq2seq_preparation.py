"""Rows with a source and a target to encoded pairs on disk, by way of the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from luthier.core.errors import ConfigError, DataError, Fault
from luthier.data.cache import source_hashes
from luthier.data.parallel import differing_parts, files_in, other_file, read_parallel
from luthier.data.prepared import Prepared
from luthier.data.reading import Reading, RowFault
from luthier.data.records import Record, column_of, load_records
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.models.section import ModelSection
from luthier.models.seq2seq import require_seq2seq, seq2seq_config
from luthier.tasks.text.records_preparation import Laid, Reader, prepare_records
from luthier.tasks.text.seq2seq_layout import Words, pairs_encoded

SOURCE_NAMES = (
    *("source", "document", "article", "dialogue", "text", "input", "src", "question", "content", "en"),
    *("原文", "正文", "文本", "内容", "输入"),
)
TARGET_NAMES = (
    *("target", "summary", "highlights", "abstract", "tldr", "output", "tgt", "translation", "reference", "answer", "response"),
    *("摘要", "译文", "输出", "标题"),
)
NESTED = "translation"


@dataclass(frozen=True)
class Pairs:
    """Which texts of a row are the source and the target, and how they become tokens.

    Args:
        task: Name of the task.
        data: Where the rows are; `text` and `label` name the columns.
        prefix: What is put before every source.
        longest_target: Most tokens of a target.
        languages: Names of two languages: keys of a nested translation, columns, or parts of the names of two files; None where there
            are none.
        target_file: File with the targets of the training rows, where it is named.
        notes: What is to be said of the files.
    """

    task: str
    data: DataSection
    prefix: str
    longest_target: int
    languages: tuple[str, str] | None = None
    target_file: str | None = None
    notes: tuple[str, ...] = ()

    def prepared(self, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows; the same content and settings are taken from the cache."""
        require_seq2seq(model)
        targets = [self._target_of(source) for source in (self.data.train, self.data.validation, self.data.test)]
        settings = {"task": self.task, "prefix": self.prefix, "longest_target": self.longest_target, "languages": self.languages}
        reader = Reader(
            settings={**settings, "targets": [source_hashes(target) for target in targets]},
            load=self.rows,
            labels=lambda _: (),
            lay_out=lambda table, tokenizer, longest, _: self.laid(table, tokenizer, longest),
            config=seq2seq_config,
            says_what_is_cut=True,
        )
        return prepare_records(self.data, model.model_copy(update={"extend_vocabulary": False}), reader)

    def rows(self) -> Rows:
        """Return the rows of every split, and say which column predicting reads."""
        used: dict[str, str] = {}
        files = (self.data.train, self.data.validation, self.data.test)
        in_two_files = any(self._target_of(source) is not None for source in files)
        rows = load_records(self.data, lambda row: self._record(row, used), open_as=self._opened if in_two_files else None)
        rows.notes.extend(self.notes)
        if "text" in used:
            rows.facts["sources"].get("train", {})["columns"] = {"prompt": used["text"], "text": used["target"]}
        if "guessed" in used:
            rows.notes.append(f"translated {used['guessed']} (guessed; task.source_language and task.target_language say otherwise)")
        return rows

    def laid(self, table: pa.Table, tokenizer: Any, longest: int) -> Laid:
        """Return rows as the model reads them; what was cut is said."""
        words = Words(tokenizer, longest, min(self.longest_target, longest))
        sources, cut_N = words.sources([self.prefix + text for text in table["text"].to_pylist()])
        wanted = [json.loads(record)["targets"][0] for record in table["record"].to_pylist()]
        targets, short_N = words.targets(wanted)
        encoded, starts_N = pairs_encoded(sources, targets, cut_N | short_N)
        notes = [
            f"{int(cuts.sum())} {noun} are longer than {most} tokens and were cut ({key})"
            for noun, cuts, most, key in (
                ("sources", cut_N, words.longest_source, "data.max_length"),
                ("targets", short_N, words.longest_target, "task.max_target_length"),
            )
            if cuts.any()
        ]
        return Laid(table.append_column("prompt", table["text"]), encoded, starts_N, notes=notes)

    def _record(self, row: Record, used: dict[str, str]) -> Record:
        """Return the source of a row as `text`, and its targets: the first is learnt, any of them is right."""
        if isinstance(row.get(NESTED), dict) and self.data.text is None:
            source, target = self._nested(row[NESTED], used)
        else:
            here, there = self.languages or (None, None)
            source = column_of(row, _named(row, self.data.text, here), SOURCE_NAMES, key="data.text")
            target = column_of(row, _named(row, self.data.label, there), TARGET_NAMES, key="data.label")
            used.setdefault("text", _name_of(row, source))
            used.setdefault("target", _name_of(row, target))
        targets = [_whole(one, "target") for one in (target if isinstance(target, list) else [target])]
        if not targets:
            raise RowFault("empty target")
        return {"text": _whole(" ".join(source) if _are_texts(source) else source, "source"), "targets": targets}

    def _nested(self, pair: Record, used: dict[str, str]) -> tuple[Any, Any]:
        """Return the two texts of `{"en": ..., "de": ...}`."""
        languages = self.languages
        if languages is None:
            if len(pair) != 2:
                what = f"a translation has {len(pair)} languages ({', '.join(map(str, pair))})"
                raise DataError(what, where="task.source_language", fix="say which: task.source_language=en task.target_language=de")
            languages = (str(list(pair)[0]), str(list(pair)[1]))
            used.setdefault("guessed", f"from {languages[0]} to {languages[1]}")
        missing = [language for language in languages if not isinstance(pair.get(language), str)]
        if missing:
            raise RowFault(f"no text in a language (got {', '.join(map(str, pair))}, wanted {missing[0]})")
        return pair[languages[0]], pair[languages[1]]

    def _opened(self, source: str, section: DataSection) -> Reading | None:
        target = self._target_of(source)
        return None if target is None else read_parallel(str(Path(source).expanduser()), target, section)

    def _target_of(self, source: str | None) -> str | None:
        """Return the file with the targets of a file of sources, or None where they stand in one file."""
        if source is None:
            return None
        if self.target_file is not None and source == self.data.train:
            return str(Path(self.target_file).expanduser())
        return other_file(str(Path(source).expanduser()), *self.languages) if self.languages is not None else None


def languages_of(data: DataSection, languages: tuple[str | None, str | None], target_file: str | None) -> tuple[str, str] | None:
    """Return the two languages: those that are named, else those that the names of the two training files differ in.

    Raises:
        ConfigError: if one language is named without the other.
    """
    source, target = languages
    if source is not None and target is not None:
        return source, target
    if source is not None or target is not None:
        missing = "source_language" if source is None else "target_language"
        raise ConfigError([Fault(f"task.{missing}", "one language is named without the other", f"task.{missing}=...")])
    return differing_parts(data.train, target_file) if target_file is not None and data.train is not None else None


def files_of_languages(data: DataSection, languages: tuple[str, str] | None) -> tuple[DataSection, list[str]]:
    """Return the data section with the files of a folder of languages in the place of the folder, and what is to be said of them."""
    folder = Path(data.train).expanduser() if data.train else None
    if languages is None or folder is None or not folder.is_dir():
        return data, []
    found, passed = files_in(str(folder), languages[0])
    if "train" not in found:
        return data, []
    given = {split: getattr(data, split) for split in ("validation", "test") if getattr(data, split) is not None}
    notes = [f"in {folder}: {', '.join(Path(name).name for name in found.values())}"]
    if passed and "test" not in given:
        notes.append(f"not taken, because they are several: {', '.join(passed)} (name one with data.test=...)")
    return data.model_copy(update={**found, **given}), notes


def _named(row: Record, named: str | int | None, language: str | None) -> str | int | None:
    """Return the column that is named, else the one that has the name of the language, if there is one."""
    if named is not None or language is None:
        return named
    return next((name for name in row if name.strip().lower() == language.lower()), None)


def _are_texts(source: Any) -> bool:
    return isinstance(source, list) and bool(source) and all(isinstance(one, str) for one in source)


def _whole(text: Any, noun: str) -> str:
    if not isinstance(text, str):
        raise RowFault(f"{noun} of a wrong type (got {type(text).__name__}, wanted text)")
    if not text.strip():
        raise RowFault(f"empty {noun}")
    return text


def _name_of(row: Record, value: Any) -> str:
    """Return the column that holds a value."""
    return next((str(name) for name, cell in row.items() if cell is value), "text")
