"""Globs over the names of parameters, such as `encoder.layer.0`, `LayerNorm` or `*.attention.*`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from luthier.core.errors import ConfigError, Fault
from luthier.core.names import nearest

LONGEST_PIECE = 4  # dotted pieces of a name that are offered where a pattern fits nothing


def fits(name: str, pattern: str) -> bool:
    """Whether a glob fits a parameter's name, or any of its whole dotted pieces: `layer.1` fits `encoder.layer.1.bias`, not `layer.11`."""
    words = name.split(".")
    ends = range(1, len(words) + 1)
    return any(fnmatchcase(".".join(words[start:end]), pattern) for start in range(len(words)) for end in ends if start < end)


def fitting(names: Iterable[str], patterns: Iterable[str], key: str) -> dict[str, set[str]]:
    """Return the names that each pattern fits.

    Args:
        names: Names of all parameters.
        patterns: Globs.
        key: The key of the recipe they stand in.

    Raises:
        ConfigError: naming near names, for every pattern that fits nothing.
    """
    known = list(names)
    found = {pattern: {name for name in known if fits(name, pattern)} for pattern in patterns}
    faults = [_nothing(pattern, known, key) for pattern, fitted in found.items() if not fitted]
    if faults:
        raise ConfigError(faults)
    return found


def _nothing(pattern: str, names: Collection[str], key: str) -> Fault:
    pieces = {
        ".".join(words[start : start + length])
        for words in (name.split(".") for name in names)
        for length in range(1, LONGEST_PIECE + 1)
        for start in range(len(words) - length + 1)
    }
    close = nearest(pattern.strip("*."), sorted(piece for piece in pieces if not piece.isdigit()))
    some = sorted(names)[:: max(1, len(names) // 3)][:3]
    words = f"did you mean {' or '.join(map(repr, close))}?" if close else f"they are called {', '.join(some)} and the like"
    return Fault(key, f"no parameter of the model fits {pattern!r}", words)
