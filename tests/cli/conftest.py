"""The command line, run in this process: exit code, standard output, standard error."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> dict[str, Any]:
        """The last line of standard output."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Every line of standard output."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def words(self) -> str:
        """Everything it said, white space made one, so that a line break hides no word."""
        return " ".join((self.out + self.err).split())


@pytest.fixture
def luthier(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run `luthier ARGUMENTS`; `lines` are fed to standard input."""
    from luthier.cli.main import main

    def run(*arguments: object, lines: str | bytes = "") -> Said:
        given = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["luthier", *given])
        data = lines.encode() if isinstance(lines, str) else lines
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capfd.readouterr()
        code = main(given)
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture
def flags(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> list[str]:
    """A training of three steps in flags alone, to a new run folder `run`."""
    quick = ["training.max_steps=3", "training.threads=1", "training.precision=fp32", "training.batch_size=8"]
    quick += ["evaluate.resamples=100", "evaluate.baseline=false", "track.trackers=[]", "model.head.start=zero"]
    return ["--data", str(tiny_csv), "--model", str(tiny_model), "--output", str(tmp_path / "run"), *quick]
