"""How a command says no, and flags with other rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def refused(said: Any, *words: str, code: int = 2) -> None:
    """The command ended with `code` and a message with all the words, and without a traceback."""
    assert said.code == code, said.words
    assert "Traceback" not in said.words and "fault of ours" not in said.words
    for word in words:
        assert word in said.words, f"{word!r} is not in: {said.words}"


def with_data(flags: list[str], rows: Path) -> list[str]:
    """The flags with other rows."""
    return [str(rows) if before == "--data" else flag for before, flag in zip(["", *flags], flags, strict=False)]
