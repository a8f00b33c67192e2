"""Paths as they are written in a recipe."""

from __future__ import annotations

import os
import re


def expanded(written: str) -> str:
    """Return a path with `~` and `$VARIABLES` filled in.

    Raises:
        ValueError: if a variable is not set.
    """
    path = os.path.expandvars(os.path.expanduser(written))
    missing = re.search(r"\$\{?(\w+)", path)
    if missing:
        raise ValueError(f"the environment variable {missing[1]} is not set; set it, or write the path")
    return path
