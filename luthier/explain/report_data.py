"""What a report and a card say of the rows."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, NamedTuple

from luthier.explain.story import Plain, Story
from luthier.explain.wording import NONE, count, percent, size


class Source(NamedTuple):
    """One file of rows: how it was read, and what was left out of it."""

    name: str
    form: str
    read: str
    kept: str
    bad: str
    num_bytes: str
    sha256: str


class DataAccount(NamedTuple):
    """What there is to say of the rows, ready to be read."""

    sources: list[Source]
    splits: list[tuple[str, str, str]]
    facts: list[tuple[str, str]]
    notes: list[str]
    fingerprint: str


def data_account(story: Story) -> DataAccount:
    """Return what `data.json` says: sources, splits, tokens, notes."""
    data = story.data
    splits = [(str(name), count(story.num_rows(name)), _longest(facts)) for name, facts in (data.get("splits") or {}).items()]
    sources = list((data.get("sources") or {}).values())
    notes = [_without_folders(str(note), sources) for note in data.get("notes") or []]
    return DataAccount(
        sources=[_source(facts) for facts in sources],
        splits=splits,
        facts=[*_row_facts(data), *_token_facts(story)],
        notes=notes,
        fingerprint=str(data.get("fingerprint") or ""),
    )


def _source(facts: Plain) -> Source:
    bad = facts.get("bad") or {}
    reasons = ", ".join(f"{count(number)} {reason}" for reason, number in bad.items()) if isinstance(bad, dict) else count(bad)
    return Source(
        name=PurePath(str(facts.get("source", ""))).name,
        form=", ".join(str(facts[key]) for key in ("format", "encoding") if facts.get(key)),
        read=count(facts.get("read")),
        kept=count(facts.get("kept")),
        bad=reasons or "none",
        num_bytes=size(facts.get("bytes")),
        sha256=str(facts.get("sha256") or facts.get("fingerprint") or ""),
    )


def _without_folders(note: str, sources: list[Plain]) -> str:
    """Shorten the paths in a note to names: a report may be shown to people whom the folders do not concern."""
    for facts in sources:
        path = str(facts.get("source") or "")
        note = note.replace(path, PurePath(path).name) if path else note
    return note


def _longest(facts: Any) -> str:
    characters = facts.get("characters") or {}
    if not characters:
        return NONE
    return f"{count(characters.get('median'))} / {count(characters.get('max'))}"


def _row_facts(data: Plain) -> list[tuple[str, str]]:
    repeated = data.get("duplicates") or {}
    equal = {split: one["rows"] for split, one in (data.get("left_out_as_equal") or {}).items() if one.get("rows")}
    found = [
        ("Repeated rows", count(repeated.get("repeated_rows")) if repeated.get("repeated_rows") else ""),
        ("Texts with several labels", count(repeated.get("contradictory_texts")) if repeated.get("contradictory_texts") else ""),
        ("Left out as equal", ", ".join(f"{count(number)} training rows equal to {split} rows" for split, number in equal.items())),
    ]
    return [(name, value) for name, value in found if value]


def _token_facts(story: Story) -> list[tuple[str, str]]:
    tokens = story.data.get("tokens") or {}
    cut = {split: number for split, number in (tokens.get("truncated") or {}).items() if number}
    found = [
        ("Longest text", count(tokens["longest"], "token") if tokens.get("longest") else ""),
        ("Read at most", count(tokens["max_length"], "token") if tokens.get("max_length") else ""),
        ("Texts cut", ", ".join(f"{count(number)} in {split}" for split, number in cut.items()) or ("none" if tokens else "")),
        ("Unknown before tuning", percent(tokens["unknown_share_before"]) if tokens.get("unknown_share_before") else ""),
        ("Characters added", count(tokens["added_characters"]) if tokens.get("added_characters") else ""),
    ]
    unknown = [(f"Unknown in {where}", percent(share, 2)) for where, share in story.unknown_shares().items() if share > 0]
    return [(name, value) for name, value in found + unknown if value]
