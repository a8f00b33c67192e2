"""`luthier schedule`: the rates it says are those that a training has, and nothing is trained."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier import flow
from luthier.core import files
from luthier.optim import defaults

Luthier = Callable[..., Any]


def test_the_rates_are_those_of_the_training(tiny_run: Path, tmp_path: Path) -> None:
    found = flow.draw_schedule(tiny_run / "recipe.yaml", picture=tmp_path / "drawn.svg")
    trained = [line["learning_rate"] for line in files.read_json_lines(tiny_run / "events.jsonl") if "event" not in line]
    highest = found["rates"]["learning_rate"]["peak"] / max(found["factors"])
    assert found["steps"] == len(trained) == 40
    assert [highest * factor for factor in found["factors"]] == pytest.approx(trained)


def test_what_it_says_and_draws(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "drawn.svg"
    said = luthier("schedule", *flags, "--lr", "1e-3", "optim.head_learning_rate=4e-3", "--picture", picture)
    assert said.code == 0, said.words
    for words in ("schedule: linear", "steps: 3", "start peak end mean", "head_learning_rate", "0.004", f"written: {picture}"):
        assert words in said.words.replace("\xa0", " "), words
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"learning_rate", "head_learning_rate", "step →", "0.004"} <= set(texts)
    assert not (tmp_path / "run").exists(), "nothing is trained"


def test_the_object(luthier: Luthier, tiny_model: Path, tmp_path: Path) -> None:
    words = ["--model", tiny_model, "--steps", "200", "training.epochs=4", "schedule.type=slanted-triangular"]
    said = luthier("schedule", *words, "--picture", tmp_path / "drawn.svg", "--json")
    assert said.code == 0 and len(said.out.splitlines()) == 1, said.words
    found = said.object
    assert (found["steps"], found["steps_per_epoch"], found["warmup_steps"], found["peak_step"]) == (200, 50, 20, 21)
    width = files.read_json(tiny_model / "config.json")["hidden_size"]
    rates = found["rates"]["learning_rate"]
    assert rates["peak"] == pytest.approx(defaults.learning_rate(width)) and rates["start"] < rates["mean"] < rates["peak"]
    assert rates["end"] == pytest.approx(rates["peak"] * found["factors"][-1]) and len(found["factors"]) == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no training rows are named", "--steps 1000"]),
        (["--steps", "0"], ["--steps", "wanted 1 or more"]),
        (["one.yaml", "two.yaml"], ["got 2 recipes"]),
        (["--steps", "9", "schedule.type=triangular"], ["unknown schedule 'triangular'", "slanted-triangular"]),
        (["--steps", "9", "schedule.type=one-cycle", "schedule.warmup=3"], ["has no unit"]),
    ],
)
def test_what_it_refuses(arguments: list[str], words: list[str], luthier: Luthier) -> None:
    said = luthier("schedule", *arguments)
    assert said.code == 2 and all(word in said.words for word in words), said.words
