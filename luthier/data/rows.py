"""The whole data stage: read, clean, leave out what is on both sides, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from luthier.core.errors import ConfigError, Fault
from luthier.data.collect import Collected, collect, refuse_too_many
from luthier.data.facts import describe_split, duplicates, fingerprint
from luthier.data.labels import label_counts, require_classes, set_unknown_aside
from luthier.data.locate import SPLITS, find_sources
from luthier.data.overlap import leave_out_equal
from luthier.data.reading import BadRow
from luthier.data.section import DataSection
from luthier.data.split import folds, split

AUTO_TEST = 0.2


@dataclass(frozen=True)
class Rows:
    """Rows ready to be encoded.

    Args:
        splits: `train`, `validation`, `test`, as far as they exist. Columns: `id` (int64, unique over all splits), `row`
            (number in its source, from 1), `text`, `text_pair` and `slice` where there are such columns, and `label`
            (a string, or a list of strings).
        bad: Every row that is not used, and why; one line of `quarantine.jsonl` each.
        facts: What `data.json` says.
        notes: Choices and findings, in words for the user.
    """

    splits: dict[str, pa.Table]
    bad: list[BadRow] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_rows(section: DataSection, *, multi_label: bool = False, labels: Collection[str] | None = None, labelled: bool = True) -> Rows:
    """Read, clean and hold apart the rows of a recipe.

    A training row whose text is equal (after normalisation) to one of a given validation or test file is left out and
    counted; the given files are not changed. Labels that training does not have are set aside in the other splits.

    Args:
        section: The `data` section of the recipe. Without `train`, the given splits are read as they are.
        multi_label: Whether a row has any number of labels.
        labels: Labels the model knows, for reading rows without `train` (evaluation of a finished run).
        labelled: Whether rows have labels at all; without, nothing is checked of them.

    Raises:
        DataError: if the data is missing, unreadable, mostly bad, or its labels are no classes.
        ConfigError: if a fraction is asked for a split that is given as a file.
    """
    sources = find_sources(section)
    read = {name: collect(source, section, split=name, multi_label=multi_label, labelled=labelled) for name, source in sources.items()}
    read, said = _checked(read, section, labels) if labelled else (read, [])
    return held_apart(section, sources, read, said, multi_label=multi_label)


def held_apart(
    section: DataSection, sources: dict[str, str], read: dict[str, Collected], said: list[str], *, multi_label: bool = False
) -> Rows:
    """Return the rows of all sources as splits: equal rows on one side, fractions held out, an id for each row.

    Args:
        section: The `data` section of the recipe.
        sources: Where each split comes from.
        read: What was read of each source.
        said: What is to be said beside what reading said.
        multi_label: Whether a row has any number of labels.

    Raises:
        DataError: if no row is left for a split.
        ConfigError: if a fraction is asked for a split that is given as a file.
    """
    fractions = _fractions(section, sources)
    tables = {name: one.table for name, one in read.items()}
    left_out: list[BadRow] = []
    overlaps: dict[str, dict[str, int]] = {}
    folded: dict[str, Any] = {}
    if "train" in tables:
        held_out = {name: tables.pop(name) for name in list(tables) if name != "train"}
        train, left_out, overlaps = leave_out_equal(tables["train"], held_out, source=sources["train"])
        train, measured, folded = _folded(train, section)
        tables = split(train, fractions, seed=section.split.seed, stratify=section.split.stratify) | held_out | measured
    bad = [one for collected in read.values() for one in collected.bad] + left_out
    return Rows(
        _finished(tables, sources),
        bad=bad,
        facts=_facts(section, read, tables, overlaps, multi_label=multi_label) | folded,
        notes=[note for one in read.values() for note in one.notes] + said + _said_of(tables, bad, overlaps),
    )


def _folded(table: pa.Table, section: DataSection) -> tuple[pa.Table, dict[str, pa.Table], dict[str, Any]]:
    """Return the rows that train, those of the fold as `test`, and what `data.json` says of all folds; without a fold all rows train."""
    if section.split.place is None:
        return table, {}, {}
    number, of = section.split.place
    fold_N = folds(table, of, seed=section.split.seed, stratify=section.split.stratify)
    sizes = [int((fold_N == fold).sum()) for fold in range(of)]
    facts = {"fold": number, "rows": table.num_rows, "rows_of_folds": sizes, "always_trained": int((fold_N < 0).sum())}
    inside_N = fold_N == number - 1
    return table.filter(pa.array(~inside_N)), {"test": table.filter(pa.array(inside_N))}, {"folds": facts}


def _fractions(section: DataSection, sources: dict[str, str]) -> dict[str, float]:
    """Return the share of each split that is cut from the training rows."""
    wanted = {"validation": section.split.validation, "test": section.split.test}
    faults = [
        Fault(f"data.split.{name}", f"is {share:g}, but the {name} rows come from '{sources[name]}'", "leave out one of the two")
        for name, share in wanted.items()
        if share != "auto" and share > 0 and name in sources
    ]
    if faults:
        raise ConfigError(faults, where="data")
    alone = "validation" not in sources and "test" not in sources and section.split.fold is None
    return {name: (AUTO_TEST if alone else 0.0) if share == "auto" else share for name, share in wanted.items()}


def _checked(read: dict[str, Collected], section: DataSection, labels: Collection[str] | None) -> tuple[dict[str, Collected], list[str]]:
    """Check the labels of the training rows, and set aside rows of other splits whose label training does not have."""
    notes: list[str] = []
    if "train" in read:
        notes = require_classes(read["train"].table, source=read["train"].facts["source"], known=section.labels or ())
        labels = {*(section.labels or ()), *label_counts(read["train"].table)}
    checked = {}
    for name, one in read.items():
        if name == "train" or labels is None:
            checked[name] = one
            continue
        source = one.facts["source"]
        table, unknown = set_unknown_aside(one.table, labels, source=source, split=name)
        bad = sorted([*one.bad, *unknown], key=lambda row: row.row)
        refuse_too_many(bad, table.num_rows + len(bad), section.max_bad_rows, source=source)
        checked[name] = Collected(table, bad, one.notes, one.facts)
    return checked, notes


def _finished(tables: dict[str, pa.Table], sources: dict[str, str]) -> dict[str, pa.Table]:
    """Give every row its id: the row number, counted on from source to source."""
    finished, offset = {}, 0
    for source in sources:
        inside = [source] if source != "train" else [name for name in tables if name not in sources or name == "train"]
        last = 0
        for name in inside:
            rows = tables[name]["row"].to_numpy()
            last = max(last, int(rows.max(initial=0)))
            columns = [column for column in tables[name].column_names if column not in ("key", "group")]
            finished[name] = tables[name].select(columns).add_column(0, "id", pa.array(rows + offset))
        offset += last
    return {name: finished[name] for name in SPLITS if name in finished}


def _facts(
    section: DataSection, read: dict[str, Collected], tables: dict[str, pa.Table], overlaps: dict[str, dict[str, int]], *, multi_label: bool
) -> dict[str, Any]:
    sources = {
        name: {
            **one.facts,
            "read": one.table.num_rows + len(one.bad),
            "kept": one.table.num_rows,
            "bad": dict(Counter(row.kind for row in one.bad)),
        }
        for name, one in read.items()
    }
    if "train" in sources:
        sources["train"]["kept"] -= sum(count["rows"] for count in overlaps.values())
    return {
        "fingerprint": fingerprint(section, sources, multi_label=multi_label),
        "sources": sources,
        "left_out_as_equal": overlaps,
        "splits": {name: describe_split(tables[name]) for name in SPLITS if name in tables},
        "duplicates": duplicates(tables["train"]) if "train" in tables else {},
    }


def _said_of(tables: dict[str, pa.Table], bad: list[BadRow], overlaps: dict[str, dict[str, int]]) -> list[str]:
    notes = ["rows: " + ", ".join(f"{name} {tables[name].num_rows:,}" for name in SPLITS if name in tables)]
    equal = sum(count["rows"] for count in overlaps.values())
    for name, count in overlaps.items():
        notes.append(f"{count['rows']} training rows ({count['texts']} texts) are equal to {name} rows and are left out of training")
    if len(bad) > equal:
        reasons = Counter(one.kind for one in bad if not one.kind.startswith("equal to"))
        notes.append(f"{len(bad) - equal} bad rows left out: " + ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()))
    return notes
