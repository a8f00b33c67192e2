"""`luthier train --from RUN` tunes a finished run further, and says what it forgot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_run_goes_on_with_new_rows(luthier: Callable[..., Any], flags: list[str], tmp_path: Path) -> None:
    assert luthier("train", *flags).code == 0
    further = [*flags, "--from", tmp_path / "run", "--output", tmp_path / "next", "--resume", "auto", "keep.replay=0.5"]
    said = luthier("train", *further)
    assert said.code == 0, said.err
    assert "the same task (keep.labels=join); 3 of its 3 labels occur in the new rows, none is new" in said.words
    assert "right before" in said.words and "Kept by: replay of 0.5 of the rows" in said.words
    again = luthier("train", *further, "--json")
    assert again.code == 0 and again.object["forgetting"]["run"] == str(tmp_path / "run"), "--resume auto knows it again"


def test_from_what_is_no_run(luthier: Callable[..., Any], flags: list[str], tmp_path: Path) -> None:
    said = luthier("train", *flags, "--from", tmp_path / "nothing")
    assert said.code == 2 and "keep.run: no run folder at" in said.words and "luthier runs" in said.words
    assert not (tmp_path / "run").exists()
