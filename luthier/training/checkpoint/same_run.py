"""Whether a checkpoint belongs to the run at hand, and what exactly differs where it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.core.errors import SetupError

FINGERPRINT = "fingerprint"
LONGEST_SHOWN = 80


def refuse_another_run(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise SetupError, with every key that differs, unless a checkpoint was made with what is there now.

    Args:
        folder: The checkpoint.
        then: The identity stored in it.
        now: The identity of the run at hand.
    """
    found = differences(then, now)
    if found:
        lines = [f"  {name}: {difference}" for name, several in found.items() for difference in several]
        head = f"the checkpoint was made with another {' and another '.join(found)}: resuming would mix two runs"
        raise SetupError(
            "\n".join([head, *lines]),
            where=str(folder),
            fix="put back what changed (the files, or the values in the run's recipe.yaml), or start a new run with: luthier train",
        )


def differences(then: dict[str, Any], now: dict[str, Any]) -> dict[str, list[str]]:
    """Return what differs, by entry, in words such as `warmup 6% then, 10% now`.

    Only what both know is compared, so that a newer Luthier, which knows more, can go on with an older checkpoint.
    """
    now = json.loads(json.dumps(now))
    found: dict[str, list[str]] = {}
    for name in sorted(then.keys() & now.keys()):
        several = [_words(*difference) for difference in _unequal(*_comparable(then[name], now[name]))]
        if several:
            found[name] = several
    return found


def _comparable(then: Any, now: Any) -> tuple[Any, Any]:
    """Return two entries in one shape: format 1 had one fingerprint where later ones have details."""
    if isinstance(now, dict) and FINGERPRINT in now:
        if not isinstance(then, dict):
            return {FINGERPRINT: then}, now
        return {key: value for key, value in then.items() if key != FINGERPRINT}, now
    return then, now


def _unequal(then: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then:
            if key in now:
                yield from _unequal(then[key], now[key], (*path, key))
    elif then != now:
        yield path, then, now


def _words(path: tuple[str, ...], then: Any, now: Any) -> str:
    return f"{'.'.join(path)} {_shown(then)} then, {_shown(now)} now".lstrip()


def _shown(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return f"{text[:8]}..."
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
