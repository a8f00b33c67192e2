"""Keep the C library from giving freed memory back between steps: a step then causes hundreds of page faults, not tens of thousands."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGE = 2**30


def keep_freed_memory() -> bool:
    """Raise the thresholds of glibc's malloc in this process; returns whether that was possible (Linux with glibc).

    Reference: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE), (M_TOP_PAD, LARGE // 16))
    return all(mallopt(option, value) == 1 for option, value in settings)
