"""`luthier plan` and `luthier train --find-lr` from their arguments to what they say and leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.cli.plan import _show_machine
from luthier.cli.rates import curve
from luthier.stages.planning import plan
from luthier.stages.planning.trial import Trial

Luthier = Callable[..., Any]
TRIED = Trial([10.0, 20.0], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2], 0.05, 0.001, 0.0, 1.0, 2**20, 2**30)


@pytest.fixture(autouse=True)
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "trial_of", lambda *given, **named: TRIED)
    monkeypatch.setenv("COLUMNS", "80")


def test_what_a_plan_says(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("plan", *flags, "--hardware", "a100-80g", "--price", "2.5", "--pretraining")
    assert said.code == 0, said.words
    for words in ("this machine (measured", "a100-80g (calculated, not measured)", "1,024 MiB of", "fits", "cost", "Chinchilla", "3 steps"):
        assert words in said.words.replace("\xa0", " ")
    assert max(map(len, said.out.replace(str(tmp_path.parent), "").splitlines())) <= 80
    assert not (tmp_path / "run").exists(), "nothing is trained"


def test_copies_are_shown_where_there_are_some(luthier: Luthier, flags: list[str]) -> None:
    plain, averaged = (luthier("plan", *flags, *more) for more in ([], ["training.ema=0.9"]))
    assert averaged.code == 0 and ", copies 0 MiB, gradients" in averaged.words and "copies" not in plain.words


def test_what_it_needs_fits_into_a_line_of_80_columns() -> None:
    memory = dict.fromkeys(("weights", "copies", "gradients", "optimiser", "activations", "process", "total", "available"), 9.9 * 2**30)
    machine = {"name": "here", "basis": "counted", "memory": memory | {"fits": True}, "seconds": None, "cost": None, "change": []}
    lines: list[str] = []
    _show_machine(machine, SimpleNamespace(say=lambda line="", style=None: lines.append(line)))  # type: ignore[arg-type]
    assert max(map(len, lines)) <= 80 and "copies 10,138 MiB" in "".join(lines)


def test_the_object_of_a_plan(luthier: Luthier, flags: list[str]) -> None:
    said = luthier("plan", *flags, "--json")
    assert said.code == 0 and len(said.out.splitlines()) == 1
    machine = said.object["machines"][0]
    assert {"weights", "gradients", "optimiser", "activations", "process", "total", "available", "fits"} <= set(machine["memory"])
    assert machine["cost"] is None and machine["change"] == [] and said.object["steps"] == 3 and said.object["assumed"] is None


def test_a_plan_without_data(luthier: Luthier, tiny_model: Path) -> None:
    said = luthier("plan", "--model", tiny_model, "--assume", "40x16", "--json", "training.precision=fp32")
    assert said.code == 0, said.words
    assert said.object["assumed"] == {"rows": 40, "tokens": 16} and said.object["tokens"] == 40 * 16 * said.object["epochs"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--hardware", "a100-80gb"], ["unknown hardware 'a100-80gb'", "a100-80g"]),
        (["--price", "-1"], ["--price", "0 or more"]),
        (["--assume", "many"], ["wanted rows and tokens, such as 10000x128"]),
        (["one.yaml", "two.yaml"], ["got 2 recipes"]),
        (["--hardwear", "t4-16g"], ["unknown flag", "--hardware"]),
    ],
)
def test_what_a_plan_refuses(wrong: list[str], words: list[str], luthier: Luthier, flags: list[str]) -> None:
    said = luthier("plan", *flags, *wrong)
    assert said.code == 2 and all(word in said.words for word in words), said.words


def test_find_lr(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    said = luthier("train", *flags, "--find-lr", "--lr", "1e-3")
    assert said.code == 0, said.words
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == ["find-lr.json", "find-lr.svg"], "nothing was trained"
    assert "proposed rate" in said.words and "arxiv.org/abs/1506.01186" in said.words and "*" in said.out
    command = said.out.splitlines()[-1]
    assert command.startswith("train with it: luthier train --data") and "--find-lr" not in command and "1e-3" not in command
    assert "--output" not in command and command.count("--lr") == 1


def test_find_lr_as_an_object(luthier: Luthier, flags: list[str]) -> None:
    said = luthier("train", *flags, "--find-lr", "--json")
    assert said.code == 0 and {"rate", "rule", "reference", "lowest", "steepest", "points", "files"} <= set(said.object)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--find-lr"], ["nothing to train on"]),
        (["--find-lr", "training.seed=1"], ["no training rows are named", "data.train"]),
        (["--find-lr", "--processes", "2", "training.seed=1"], ["does not go with --processes"]),
        (["--find-lr", "--resume", "auto", "training.seed=1"], ["does not go with --resume"]),
    ],
)
def test_what_find_lr_refuses(arguments: list[str], words: list[str], luthier: Luthier) -> None:
    said = luthier("train", *arguments)
    assert said.code == 2 and all(word in said.words for word in words), said.words


def test_the_small_curve() -> None:
    points = [{"rate": 10.0 ** (place - 5), "smooth": abs(3 - place) + 1.0, "loss": 1.0} for place in range(6)]
    lines = curve(points, 1e-3)
    assert lines[0].strip().startswith("4.000 |*") and max(map(len, lines)) <= 80
    assert lines[-2].index("^") == 10 + round(2 * 59 / 5) and lines[-1].strip().startswith("1e-05")
    assert curve(points[:1], 1e-3) == ["too few steps for a curve"]
