"""Threads share one pool of memory once that was asked for; asked in a process of its own, because it cannot be taken back."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, threading
from luthier.core.allocator import share_freed_memory
if sys.argv[1] == "shared":
    assert share_freed_memory()
met = threading.Barrier(4)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
def take():
    met.wait()
    for _ in range(200):
        libc.malloc(ctypes.c_size_t(5000))
    met.wait()
threads = [threading.Thread(target=take) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has this setting")
def test_threads_take_memory_from_one_pool() -> None:
    pools = {}
    for way in ("shared", "plain"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
        pools[way] = done.stdout.count("<heap nr=")
    assert pools["shared"] == 1 < pools["plain"]
