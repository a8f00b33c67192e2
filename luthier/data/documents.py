"""Texts to be continued: a text file as one long document, or rows with a text; instruction rows found by their usual names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from luthier.core.errors import DataError
from luthier.data.columns import shown
from luthier.data.encoding import examine, reading
from luthier.data.facts import describe_split, fingerprint
from luthier.data.locate import SPLITS, contents, find_format, find_sources
from luthier.data.rows import AUTO_TEST, Rows, load_rows
from luthier.data.section import DataSection

PROMPT_NAMES = ("instruction", "prompt", "question", "指令", "问题")
INPUT_NAMES = ("input", "context", "输入")
RESPONSE_NAMES = ("output", "response", "completion", "answer", "回答", "输出")


def load_documents(section: DataSection) -> Rows:
    """Read the rows of a recipe for text-generation, without labels, held apart as the recipe says.

    A `.txt` file is one document; the fractions held out of it are its end, in the order validation, test.

    Args:
        section: The `data` section; with `prompt` rows are instructions and `text` their response.

    Raises:
        DataError: if the data is missing, unreadable or mostly bad.
    """
    sources = find_sources(section)
    if all(is_text_file(source, section) for source in sources.values()):
        return _text_files(sources, section)
    return load_rows(section, labelled=False)


def with_prompt_columns(section: DataSection) -> tuple[DataSection, list[str]]:
    """Return the section with the columns of instruction rows where it names none and the first source has the usual names.

    Returns:
        The section, and what was chosen, in words.
    """
    if section.text is not None:
        return section, []
    source = next(iter(find_sources(section).values()))
    if is_text_file(source, section):
        return section, []
    names = find_format(source, section).read(source, section).columns
    found = {"prompt": section.prompt, "prompt_input": section.prompt_input, "text": None}
    for key, usual in (("prompt", PROMPT_NAMES), ("prompt_input", INPUT_NAMES), ("text", RESPONSE_NAMES)):
        known = next((name for name in names if name.lower() in usual), None)
        found[key] = known if found[key] is None else found[key]
    if section.prompt is not None and found["text"] is None:
        fix = f"say which with data.text={names[-1]} (or by number from 0)"
        raise DataError(f"cannot tell which column of '{source}' is the response; it has {shown(names)}", where="data.text", fix=fix)
    if found["prompt"] is None or found["text"] is None:
        return section, []
    said = ", ".join(f"{key} = column {name!r}" for key, name in found.items() if name is not None and getattr(section, key) is None)
    return section.model_copy(update=found), [f"{source}: {said} (guessed; data.prompt=... and data.text=... say otherwise)"]


def is_text_file(source: str, section: DataSection) -> bool:
    """Whether a source is one document of plain text."""
    return section.format == "auto" and Path(source.removesuffix(".gz")).suffix == ".txt" and Path(source).is_file()


def _text_files(sources: dict[str, str], section: DataSection) -> Rows:
    if section.split.fold is not None:
        fix = "write it as rows, such as one JSON object with a text for each paragraph or chapter (.jsonl)"
        raise DataError(f"'{sources['train']}' is one document, and folds are made of rows", where="data.train", fix=fix)
    notes: list[str] = []
    texts = {name: _whole_text(source, section, notes) for name, source in sources.items()}
    wanted = {"validation": section.split.validation, "test": section.split.test}
    alone = len(sources) == 1 and "train" in sources
    shares = {name: (AUTO_TEST if alone else 0.0) if share == "auto" else float(share) for name, share in wanted.items()}
    if "train" in texts and any(shares.values()):
        texts |= _cut(texts["train"], shares)
    facts = {
        name: {"source": source, "format": "text", **contents(source), "read": 1, "kept": 1, "bad": {}} for name, source in sources.items()
    }
    tables = {name: _table(number, texts[name]) for number, name in enumerate(SPLITS, 1) if name in texts}
    notes.append("characters: " + ", ".join(f"{name} {len(texts[name]):,}" for name in tables))
    described = {name: describe_split(table) for name, table in tables.items()}
    known = {"fingerprint": fingerprint(section, facts, multi_label=False), "sources": facts, "splits": described, "duplicates": {}}
    return Rows(tables, facts=known, notes=notes)


def _whole_text(source: str, section: DataSection, notes: list[str]) -> str:
    file = examine(Path(source), section.encoding, limit_lines=False)
    notes += file.notes
    with reading(file.path), file.open() as stream:
        text = stream.read().decode("utf-8")
    if not text.strip():
        raise DataError(f"'{source}' is empty", fix="name a file with text in it")
    return text


def _cut(text: str, shares: dict[str, float]) -> dict[str, str]:
    """Return the pieces of a text, each but the first beginning after a line end."""
    pieces, rest = {}, text
    for name in ("test", "validation"):
        if shares[name] > 0:
            place = len(rest) - int(len(text) * shares[name])
            place = rest.find("\n", place) + 1 or place
            rest, pieces[name] = rest[:place], rest[place:]
    if not all(piece.strip() for piece in (rest, *pieces.values())):
        raise DataError("the text is too short to be held apart", where="data.split", fix="name a file for each split: data.test=...")
    return {"train": rest, **pieces}


def _table(number: int, text: str) -> pa.Table:
    return pa.table({"id": pa.array([number], pa.int64()), "row": pa.array([1], pa.int64()), "text": [text]})
