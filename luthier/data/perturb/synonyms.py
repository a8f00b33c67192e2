"""Other words for the same thing, by a thesaurus such as WordNet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from luthier.core.errors import SetupError

WORD = re.compile(r"[^\W\d_]+")
PLAIN = re.compile(r"[a-z]+")
KINDS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}
Thesaurus = Mapping[str, Sequence[str]]


def swap_synonyms(text: str, rng: np.random.Generator, probability: float, thesaurus: Thesaurus) -> str:
    """Return the text with some of its words in the place of which a synonym stands; a capital at the beginning stays one.

    Args:
        text: Any text.
        rng: Decides which words, and which synonym.
        probability: How often a word that has synonyms is changed, 0 to 1.
        thesaurus: Synonyms of words in lower case.

    Reference: as "synonym replacement", https://arxiv.org/abs/1901.11196
    """

    def swapped(found: re.Match[str]) -> str:
        known = thesaurus.get(found[0].lower(), ())
        if not known or rng.random() >= probability:
            return found[0]
        synonym = known[int(rng.integers(len(known)))]
        return synonym.capitalize() if found[0][0].isupper() else synonym

    return WORD.sub(swapped, text)


def read_wordnet(folder: Path) -> dict[str, list[str]]:
    """Return the synonyms of each single word in a WordNet database: those of the sense in which it was seen most in tagged texts.

    Only words as they stand in it are known, so plurals and other forms are not; words that were never seen are left out.

    Args:
        folder: Has the files index.sense, data.noun, and so on.

    Raises:
        SetupError: if a file is not there.

    Reference: https://wordnet.princeton.edu/documentation/wndb5wn and senseidx5wn beside it
    """
    groups = {kind: _groups(folder / f"data.{name}") for kind, name in KINDS.items()}
    most: dict[str, tuple[int, set[str]]] = {}
    for line in _lines(folder / "index.sense"):
        key, group, _, seen = line.split()
        word, _, rest = key.partition("%")
        if PLAIN.fullmatch(word) and int(seen) > most.get(word, (0, set()))[0]:
            most[word] = int(seen), groups[rest[0]][group] - {word}
    return {word: sorted(found) for word, (_, found) in sorted(most.items()) if found}


def _groups(path: Path) -> dict[str, set[str]]:
    """Return the single words of each group of synonyms, by its number."""
    groups = {}
    for line in _lines(path):
        fields = line.split()
        words = [fields[4 + 2 * number].partition("(")[0] for number in range(int(fields[3], 16))]
        groups[fields[0]] = {word for word in words if PLAIN.fullmatch(word)}
    return groups


def _lines(path: Path) -> list[str]:
    """Return the lines of a database file; the licence at its head is indented."""
    if not path.is_file():
        raise SetupError(f"no such file: {path}", where="WordNet", fix="name the folder that has index.sense and data.noun")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]
