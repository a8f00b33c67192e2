"""How tags write spans: BIO, IOB1, BIOES, BILOU (BMES), IO; which of them a file uses, and all of them as IOB2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from luthier.data.reading import RowFault

Scheme = Literal["iob2", "iob1", "bioes", "bilou", "io", "plain"]
Pair: TypeAlias = "tuple[str | None, str]"
Unit: TypeAlias = "tuple[str, int, int]"
"""What is found: its type, its first word, and the word after its last."""

OUTSIDE = "O"
UNTYPED = "span"  # the type of spans whose tags are letters alone, such as the words of segmented Chinese
LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}


def letter_and_type(tag: str) -> tuple[str, str] | None:
    """Return what a tag says: B, I, E, S or O, and a type; None where it does not look like a tag of spans."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if tag in LETTERS:
        return LETTERS[tag], UNTYPED
    if len(tag) > 2 and tag[0] in LETTERS and tag[1] in "-_":
        return LETTERS[tag[0]], tag[2:]
    return None


def pairs_of(tags: Sequence[str]) -> Iterable[Pair]:
    """Return each tag of a row with the one before it, None before the first."""
    return zip((None, *tags), tags, strict=False)


def find_scheme(pairs: Mapping[Pair, int]) -> Scheme:
    """Return which scheme tags are written in.

    Where both IOB2 and IOB1 are broken somewhere, it is the one that is broken less often.

    Args:
        pairs: How often each tag follows each other one.
    """
    counts: Counter[str] = Counter()
    for (_, tag), number in pairs.items():
        counts[tag] += number
    read = {tag: letter_and_type(tag) for tag in counts}
    if None in read.values():
        named = [tag for tag in counts if tag != OUTSIDE]
        is_io = counts[OUTSIDE] > 0 and counts[OUTSIDE] == max(counts.values()) and all(read[tag] is None for tag in named)
        return "io" if is_io else "plain"
    first = {tag[0] for tag in counts if tag != OUTSIDE}
    if first & set("LU"):
        return "bilou"
    if first & set("ESM"):
        return "bioes"
    if "B" not in first:
        return "io"
    return "iob2" if _broken(pairs, "I") <= _broken(pairs, "B") else "iob1"


def _broken(pairs: Mapping[Pair, int], letter: str) -> int:
    """Return how many tags with a letter follow no tag of their type: I breaks IOB2 there, and B breaks IOB1."""
    broken = 0
    for (before, tag), number in pairs.items():
        here, last = letter_and_type(tag), letter_and_type(before or OUTSIDE)
        assert here is not None and last is not None
        if here[0] == letter and last[1] != here[1]:
            broken += number
    return broken


def as_iob2(tags: Sequence[str], scheme: Scheme, words: Sequence[str]) -> list[str]:
    """Return tags as IOB2: every span begins with B; plain tags as they are.

    Args:
        tags: The tags of a row.
        scheme: What they are written in.
        words: The words of the row, for messages.

    Raises:
        RowFault: if they break the scheme.
    """
    if scheme == "plain":
        return list(tags)
    strict, ends = scheme in ("iob2", "bioes", "bilou"), scheme in ("bioes", "bilou")
    found, letter, kind = [], OUTSIDE, ""
    for place, tag in enumerate(tags):
        new_letter, new_kind = _read(tag, scheme, place, words)
        goes_on = new_letter in "IE" and letter in "BI" and new_kind == kind
        before = tags[place - 1] if place else "the beginning"
        if (strict and new_letter in "IE" and not goes_on) or (ends and letter in "BI" and not goes_on):
            raise RowFault(f"tags break {scheme} (word {place + 1} {words[place]!r} has {tag} after {before})")
        found.append(OUTSIDE if new_letter == OUTSIDE else f"{'I' if goes_on else 'B'}-{new_kind}")
        letter, kind = new_letter, new_kind
    if ends and letter in "BI":
        raise RowFault(f"tags break {scheme} (the last word {words[-1]!r} has {tags[-1]}, which does not end)")
    return found


def _read(tag: str, scheme: Scheme, place: int, words: Sequence[str]) -> tuple[str, str]:
    found = letter_and_type(tag)
    if scheme == "io":
        return ("I", tag) if found is None else ("I" if found[0] != OUTSIDE else OUTSIDE, found[1])
    allowed = {"iob2": "BIO", "iob1": "BIO"}.get(scheme, "BIESO")
    if found is None or found[0] not in allowed:
        raise RowFault(f"no tag of {scheme} (word {place + 1} {words[place]!r} has {tag!r})")
    return found


def spans_of(tags: Sequence[str]) -> list[Unit]:
    """Return the spans of IOB2 tags: each begins with B and goes on with I of its type; any other I belongs to none.

    Reference: strict mode of seqeval, https://github.com/chakki-works/seqeval
    """
    found: list[Unit] = []
    for place, tag in enumerate(tags):
        if tag[0] == "B":
            end = place + 1
            while end < len(tags) and tags[end] == f"I{tag[1:]}":
                end += 1
            found.append((tag[2:], place, end))
    return found


def units_of(tags: Sequence[str], scheme: str) -> list[Unit]:
    """Return what tags say: spans, or with plain tags each word by itself."""
    return [(tag, place, place + 1) for place, tag in enumerate(tags)] if scheme == "plain" else spans_of(tags)


def labels_of(tags: Iterable[str], scheme: str) -> list[str]:
    """Return the tags a model learns: plain ones by the alphabet; of spans O, then B and I of each type.

    Args:
        tags: All that occur in training.
        scheme: What they were written in.
    """
    if scheme == "plain":
        return sorted(set(tags))
    kinds = sorted({tag[2:] for tag in tags if tag != OUTSIDE})
    return [OUTSIDE, *(f"{letter}-{kind}" for kind in kinds for letter in "BI")]
