"""Texts with two marked entities, such as `The <e1>child</e1> was wrapped into the <e2>cradle</e2>.`, and how a model reads them."""

from __future__ import annotations

import re
from typing import NamedTuple

from luthier.data.reading import RowFault

MARK = re.compile(r"<(/?)(e[12])(?::([^<>]*))?>")
ENTITIES = ("e1", "e2")
EXAMPLE = "The <e1>child</e1> was wrapped into the <e2>cradle</e2>."
SIGNS = {"e1": ("@", "*"), "e2": ("#", "^")}
"""What stands around an entity, and around its type, where markers are words of the vocabulary."""


class Entity(NamedTuple):
    """An entity: where it begins and ends in a text, in characters, and its type, where it has one."""

    start: int
    end: int
    type: str | None = None


class Marked(NamedTuple):
    """A text without marks, and its two entities."""

    text: str
    first: Entity
    second: Entity


def read_marks(written: str) -> Marked:
    """Return a text without its marks, and where `e1` and `e2` are in it.

    Args:
        written: A text with `<e1>...</e1>` and `<e2>...</e2>`, in any order; `<e1:person>` has a type.

    Raises:
        RowFault: if a mark is missing or twice there, or the entities are empty or overlap.
    """
    found = list(MARK.finditer(written))
    for wanted in ("<e1>", "</e1>", "<e2>", "</e2>"):
        number = sum(f"<{mark[1]}{mark[2]}>" == wanted for mark in found)
        if number != 1:
            raise RowFault(f"missing marker (no {wanted})" if not number else f"marker more than once (got {number} of {wanted})")
    if [found[0][2], found[2][2]] != [found[1][2], found[3][2]] or found[0][1] or found[2][1]:
        raise RowFault(f"entities overlap, or end before they begin (got {''.join(mark[0] for mark in found)})")
    text, places, before = "", [], 0
    for mark in found:
        text += written[before : mark.start()]
        places.append(len(text))
        before = mark.end()
    text += written[before:]
    entities = {found[at][2]: Entity(places[at], places[at + 1], found[at][3] or None) for at in (0, 2)}
    return require_entities(Marked(text, entities["e1"], entities["e2"]))


def require_entities(marked: Marked) -> Marked:
    """Return a text whose entities can be used.

    Raises:
        RowFault: if one lies outside the text, is empty, or overlaps the other.
    """
    text, *entities = marked
    for name, entity in zip(ENTITIES, entities, strict=True):
        if not 0 <= entity.start <= entity.end <= len(text):
            raise RowFault(f"entity outside the text (got {name} from {entity.start} to {entity.end} of {len(text)})")
        if not text[entity.start : entity.end].strip():
            raise RowFault(f"empty entity (got {name} from {entity.start} to {entity.end})")
    first, second = sorted(entities)
    if second.start < first.end:
        raise RowFault(f"entities overlap (got {first.start} to {first.end}, and {second.start} to {second.end})")
    return marked


def write_marks(marked: Marked) -> str:
    """Return a text with its marks, as `read_marks` reads it.

    Raises:
        RowFault: if the text has a mark of its own, or a type cannot be written into one.
    """
    found = MARK.search(marked.text)
    if found:
        raise RowFault(f"the text has a marker of its own (got {found[0]})")
    odd = next((entity.type for entity in (marked.first, marked.second) if entity.type and set(entity.type) & set("<>")), None)
    if odd is not None:
        raise RowFault(f"type with < or > in it (got {odd!r})")
    return _written(marked, {name: _tags(name, entity.type) for name, entity in zip(ENTITIES, marked[1:], strict=True)})[0]


def shown_to_model(marked: Marked, *, words: bool, typed: bool, known: frozenset[str]) -> tuple[str, list[int]]:
    """Return a text as the model reads it, and where the two opening markers are in it, in characters.

    Args:
        marked: A text and its entities.
        words: Whether markers are signs of the vocabulary (`@ child @`, `# cradle #`), or tokens of their own (`<e1> child </e1>`).
        typed: Whether types are in the markers.
        known: Tokens of their own that there are; a type without one is left out.
    """
    around = {}
    for name, entity in zip(ENTITIES, marked[1:], strict=True):
        kind = entity.type if typed else None
        if words:
            sign, mark = SIGNS[name]
            around[name] = (f"{sign} {mark} {kind.lower()} {mark}" if kind else sign, sign)
        else:
            around[name] = _tags(name, kind) if _tags(name, kind)[0] in known else _tags(name, None)
    return _written(marked, around, spaced=True)


def marker_tokens(types: set[str]) -> list[str]:
    """Return the tokens of their own: plain ones, and those of each type."""
    return [tag for kind in (None, *sorted(types)) for name in ENTITIES for tag in _tags(name, kind)]


def _tags(name: str, kind: str | None) -> tuple[str, str]:
    return (f"<{name}:{kind}>", f"</{name}:{kind}>") if kind else (f"<{name}>", f"</{name}>")


def _written(marked: Marked, around: dict[str, tuple[str, str]], *, spaced: bool = False) -> tuple[str, list[int]]:
    """Return the text with something before and after each entity, and where the first of these begins for `e1` and `e2`."""
    text, entities = marked.text, dict(zip(ENTITIES, (marked.first, marked.second), strict=True))
    whole, places, before = "", {}, 0
    for name in sorted(entities, key=lambda name: entities[name].start):
        entity, (opening, closing) = entities[name], around[name]
        whole += text[before : entity.start]
        whole += " " if spaced and whole and not whole[-1].isspace() else ""
        places[name] = len(whole)
        inside, space = text[entity.start : entity.end], " " if spaced else ""
        whole += f"{opening}{space}{inside}{space}{closing}"
        before = entity.end
        whole += " " if spaced and before < len(text) and not text[before].isspace() else ""
    return whole + text[before:], [places[name] for name in ENTITIES]
