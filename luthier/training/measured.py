"""Short measurements of this machine, remembered in the cache folder, so that the next run on it need not wait for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core import files, machine
from luthier.core.errors import RunStopped
from luthier.data.cache import cache_root, content_key

log = logging.getLogger("luthier")
Figures = dict[str, float]


def remembered(name: str, facts: dict[str, Any], measure: Callable[[], Figures]) -> Figures:
    """Return figures that were measured before on this machine under the same facts, else measure them now and keep them.

    A file that is damaged, or tells of something else, is measured again; where nothing can be written, nothing is kept.

    Args:
        name: What is measured, as part of a file name.
        facts: Everything besides the processor that the figures depend on: version of torch, threads, device.
        measure: Returns numbers above 0 by name.
    """
    facts = {"processor": machine.environment()["processor"], **facts}
    file = cache_root() / "measured" / f"{name}-{content_key(facts)}.json"
    found = _read(file, facts)
    if found is not None:
        return found
    figures = measure()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(file, {"what": name, "facts": facts, "figures": figures})
    except (OSError, RunStopped) as error:
        log.debug("the measurement of %s is not kept: %s", name, error)
    return figures


def all_remembered() -> list[dict[str, Any]]:
    """Return what was measured on this machine: each `what`, `facts` and `figures`."""
    processor = machine.environment()["processor"]
    found = [_whole(file) for file in sorted((cache_root() / "measured").glob("*.json"))]
    return [one for one in found if one is not None and one["facts"].get("processor") == processor]


def _read(file: Path, facts: dict[str, Any]) -> Figures | None:
    found = _whole(file)
    return found["figures"] if found is not None and found["facts"] == facts else None


def _whole(file: Path) -> dict[str, Any] | None:
    """Return what a file holds, or None where it is missing or damaged."""
    try:
        found = files.read_json(file)
        figures = {str(name): float(value) for name, value in found["figures"].items()}
        return {"what": str(found["what"]), "facts": dict(found["facts"]), "figures": figures} if _is_sound(figures) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_sound(figures: Figures) -> bool:
    return bool(figures) and all(0 < value < float("inf") for value in figures.values())
