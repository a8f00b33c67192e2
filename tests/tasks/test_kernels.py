"""Few kernels are kept where a model writes, all where it does not, and always as many as the user says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benches import bench_of
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier.core.kernels import FEW

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize(("own", "kept"), [(None, str(FEW)), ("7", "7")])
def test_few_are_kept_where_a_model_writes(own: str | None, kept: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(NAME, own or "")
    if own is None:
        monkeypatch.delenv(NAME)
    model, rows = make_tiny_decoder(tmp_path / "decoder"), write_instructions(tmp_path / "rows.jsonl", tiny_instructions(40))
    bench_of(writing_recipe(model, rows, tmp_path / "run"))
    assert os.environ[NAME] == kept


def test_all_are_kept_where_it_does_not(recipe: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "")
    monkeypatch.delenv(NAME)
    bench_of(recipe())
    assert NAME not in os.environ
