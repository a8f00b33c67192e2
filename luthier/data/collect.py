"""One source as one clean table in memory, with its bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from luthier.core.errors import DataError
from luthier.data.clean import LabelRule, clean
from luthier.data.columns import resolve
from luthier.data.locate import contents, find_format
from luthier.data.normalise import equality_keys
from luthier.data.reading import BadRow
from luthier.data.section import DataSection

EXAMPLES = 3


class BadRowsError(DataError):
    """Too many rows cannot be used; `bad` lists them all, for `quarantine.jsonl`."""

    def __init__(self, what: str, *, bad: list[BadRow], where: str | None = None, fix: str | None = None) -> None:
        self.bad = bad
        super().__init__(what, where=where, fix=fix)


@dataclass(frozen=True)
class Collected:
    """The rows of one source: those that can be used (`key` is equal where texts are equal), those that cannot, and what is to be said."""

    table: pa.Table
    bad: list[BadRow]
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def collect(source: str, section: DataSection, *, split: str, multi_label: bool, labelled: bool = True) -> Collected:
    """Read and clean a whole source.

    Args:
        source: A file, a folder or a hub id.
        section: The `data` section of the recipe.
        split: Name of the split, for the bad rows.
        multi_label: Whether a row has any number of labels.
        labelled: Whether rows have labels at all.

    Raises:
        DataError: if it cannot be read, a column is missing, no row is left, or too many rows are bad.
    """
    kind = find_format(source, section)
    opened = kind.read(source, section)
    columns = resolve(opened, section, source=source, need_label=labelled)
    rule = LabelRule(multi_label, section.label_separator) if labelled else None
    tables, bad = [], []
    for chunk in opened.chunks(columns.positions):
        table, dropped = clean(chunk, columns, source=source, labels=rule)
        tables.append(table)
        bad += dropped
    bad = [replace(one, split=split) for one in sorted([*bad, *opened.bad], key=lambda one: one.row)]
    if not tables or sum(table.num_rows for table in tables) + len(bad) == 0:
        only_header = opened.facts.get("header")
        fix = "add rows below it, or set data.header=false if it is a row" if only_header else "add rows, or name another file"
        raise DataError(f"'{source}' has no rows" + (", only a header" if only_header else ""), where=f"data.{split}", fix=fix)
    table = pa.concat_tables(tables).combine_chunks()
    table = table.append_column("key", equality_keys(table))
    refuse_too_many(bad, table.num_rows + len(bad), section.max_bad_rows, source=source)
    names = {"text": columns.text, "text_pair": columns.text_pair, "label": columns.label}
    names |= {"prompt": columns.prompt, "prompt_input": columns.prompt_input}
    chosen = {noun: opened.columns[place] for noun, place in names.items() if place is not None}
    facts = {"source": source, "format": kind.registered_name, **contents(source), **opened.facts, "columns": chosen}
    return Collected(table, bad, list(opened.notes), facts)


def refuse_too_many(bad: Sequence[BadRow], num_read: int, allowed: float, *, source: str) -> None:
    """Stop where more than the allowed share of rows is bad, or no row is left.

    Args:
        bad: The bad rows.
        num_read: All rows, the bad ones included.
        allowed: Share of bad rows that may be left out.
        source: What to call the rows in the message.

    Raises:
        BadRowsError: if there are too many.
    """
    if not bad or (len(bad) <= allowed * num_read and len(bad) < num_read):
        return
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in Counter(one.kind for one in bad).most_common())
    first = "; ".join(f"row {one.row}: {one.reason}" + (f" {one.text!r}" if one.text else "") for one in bad[:EXAMPLES])
    every = len(bad) == num_read
    what = f"none of the {num_read:,} rows" if every else f"{len(bad):,} of {num_read:,} rows ({len(bad) / num_read:.1%})"
    limit = "can be used" if every else f"cannot be used, at most {allowed:.0%} may be bad"
    fix = "mend the rows, or check data.text, data.label, data.delimiter and data.encoding"
    allow = "" if every else f"; or allow more with data.max_bad_rows={min(1.0, -(-len(bad) * 100 // num_read) / 100):g}"
    raise BadRowsError(f"{what} of '{source}' {limit} ({reasons})", bad=list(bad), where=first, fix=fix + allow)
