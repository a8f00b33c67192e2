"""`luthier schedule`: the rates it says are those that a training has, and nothing is trained."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier import flow
from luthier.cli.schedule import layer_lines
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


GRADUAL = ["unfreeze.type=gradual", "unfreeze.every=10 steps"]


@pytest.mark.parametrize(
    ("changes", "turns"),
    [
        (GRADUAL, [(1, 10, []), (11, 20, [2]), (21, 30, [1, 2]), (31, 40, [0, 1, 2])]),
        ([*GRADUAL, "unfreeze.order=up"], [(1, 10, []), (11, 20, [0]), (21, 30, [0, 1]), (31, 40, [0, 1, 2])]),
        ([*GRADUAL, "unfreeze.start=3"], [(1, 40, [0, 1, 2])]),
        ([*GRADUAL, "model.freeze=1"], [(1, 10, []), (11, 40, [2])]),
        (["model.freeze=body"], [(1, 40, [])]),
        (["model.freeze=0"], [(1, 40, [1, 2])]),
    ],
    ids=str,
)
def test_the_layers_are_those_of_the_training(
    changes: list[str], turns: list[tuple[int, int, list[int]]], luthier: Luthier, flags: list[str], tmp_path: Path
) -> None:
    found = luthier("schedule", *flags, *changes, "training.max_steps=40", "--picture", tmp_path / "drawn.svg", "--json").object["layers"]
    assert found["blocks"] == 2 and [(turn["first"], turn["last"], turn["trained"]) for turn in found["turns"]] == turns


def test_the_layers_are_drawn_and_told(luthier: Luthier, flags: list[str], tmp_path: Path) -> None:
    picture, words = tmp_path / "drawn.svg", ["training.max_steps=40", "--picture", tmp_path / "drawn.svg"]
    said = luthier("schedule", *flags, *GRADUAL, *words)
    for line in ("trained beside the head", "1 to 10             no          none", "31 to 40            yes         1 to 2"):
        assert line in said.out.splitlines(), said.out
    assert all(len(line) <= 80 for line in said.out.splitlines() if "drawn.svg" not in line)
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"trained layers", "embeddings", "block 1", "block 2", "head", "learning_rate"} <= set(texts)
    bars = [element for element in root.iter() if element.get("class") == "first-fill"]
    widths = sorted(float(bar.get("width", 0)) for bar in bars)
    shares = [width / widths[-1] for width in widths]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.03), "the embeddings for a quarter of the run, the head for all of it"

    plain = luthier("schedule", *flags, *words)
    assert "trained beside" not in plain.out and "embeddings" not in picture.read_text(encoding="utf-8")


def test_a_rate_that_goes_by_scores_is_said_to(luthier: Luthier, tiny_model: Path, tmp_path: Path) -> None:
    words = ["--model", tiny_model, "--steps", "50", "schedule.type=reduce-on-plateau", "schedule.warmup=10 steps"]
    said = luthier("schedule", *words, "data.split.validation=0.1", "--picture", tmp_path / "drawn.svg")
    assert said.code == 0 and "these are the highest rates: it falls when validation scores stand still" in said.out, said.words


def test_many_turns_and_many_blocks_stay_a_small_table() -> None:
    turns = [{"first": 1 + 20 * turn, "last": 20 + 20 * turn, "trained": [0, *range(1 + turn % 2, 61, 2)]} for turn in range(500)]
    lines = layer_lines({"blocks": 60, "turns": turns, "in_part": True})
    assert len(lines) == 14 and lines[-1] == "and 489 turns more, to step 10,000"
    assert all(len(line) <= 80 for line in lines) and "30: 1, 3, 5" in lines[2]


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
