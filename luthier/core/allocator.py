"""How this process holds memory that was freed, where the C library is glibc.

Reference: mallopt(3).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
LARGE = 2**30


def keep_freed_memory() -> bool:
    """Keep freed memory between steps, which saves tens of thousands of page faults a step; returns whether that was possible."""
    return _set(M_MMAP_THRESHOLD, LARGE) and _set(M_TRIM_THRESHOLD, LARGE) and _set(M_TOP_PAD, LARGE // 16)


def share_freed_memory() -> bool:
    """Let threads that begin later take memory from one pool, so that none keeps what it freed; returns whether that was possible."""
    return _set(M_ARENA_MAX, 1)


def _set(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(option, value) == 1)
    except (OSError, AttributeError):
        return False
