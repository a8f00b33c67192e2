"""Nearest right names, for messages that say what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the known names closest to `name`, best first; empty where nothing is close.

    Args:
        name: What was written.
        known: The names that exist.
        limit: How many to return at most.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)
    starts = [lower for lower in by_lower if lower.startswith(name.lower()) and lower not in close]
    return [by_lower[lower] for lower in (close + starts)[:limit]]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean x?`, or the list of all names where nothing is close."""
    names = sorted(known)
    close = nearest(name, names, limit=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + (", ".join(names) if names else "none")
