"""How the trust tests count, and where they say what was reached.

Without LUTHIER_TRUST they run with small counts, as part of `make test`, and store nothing. With LUTHIER_TRUST=full they run with the
counts that were promised, and each `proof` is kept in docs/trust.json, from which bench/trust.py writes docs/trust.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from luthier.core import files
from luthier.core.machine import environment

STORE = Path(__file__).parents[2] / "docs" / "trust.json"
IS_FULL = os.environ.get("LUTHIER_TRUST") == "full"
PACKAGES = ("luthier", "torch", "transformers", "safetensors")
sys.path.append(str(Path(__file__).parents[1] / "training"))  # runs.py: what tests read of a run folder


@pytest.fixture(scope="session")
def scale() -> Callable[[int, int], int]:
    """Pick a count: `scale(20, 200)` is 20, or 200 in a full run."""
    return lambda quick, full: full if IS_FULL else quick


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Say what a test reached; a full run keeps it for docs/trust.md. Fails the test unless `ok`.

    What the same test said in an earlier run is forgotten first, so that a test which fails before it says anything leaves no old figure.
    """
    started = [time.monotonic()]
    if IS_FULL:
        with stored_proofs() as proofs:
            for key in [key for key, kept in proofs.items() if kept["test"] == _name_of(request.node)]:
                del proofs[key]

    def say(*, item: str, promise: str, asked: str, reached: str, ok: bool) -> None:
        seconds, started[0] = time.monotonic() - started[0], time.monotonic()
        if IS_FULL:
            record = {"item": item, "promise": promise, "asked": asked, "reached": reached, "ok": ok, "seconds": round(seconds, 1)}
            with stored_proofs() as proofs:
                proofs[f"{item}: {promise}"] = {**record, "test": _name_of(request.node), **_measured_on()}
        assert ok, f"{promise}: asked {asked}, reached {reached}"

    return say


@contextmanager
def stored_proofs() -> Iterator[dict[str, Any]]:
    """Everything in docs/trust.json, to be changed in place; one process at a time."""
    folder = os.open(STORE.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        proofs = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
        yield proofs
        files.write_json(STORE, dict(sorted(proofs.items())))
    finally:
        os.close(folder)


def _name_of(node: pytest.Item) -> str:
    return f"{node.path.name}::{node.name}"


def _measured_on() -> dict[str, Any]:
    machine = environment()
    hardware = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"
    packages = {name: machine["packages"][name] for name in PACKAGES}
    return {"hardware": hardware, "python": machine["python"], "packages": packages, "measured": time.strftime("%Y-%m-%d", time.gmtime())}
