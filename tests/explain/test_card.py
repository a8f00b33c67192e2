"""The model card: a head that the hub reads, scores with intervals, and how to use the model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import made_runs
import pytest

from luthier.core import yaml
from luthier.core.run_folder import RunFolder
from luthier.explain.card import write_card


def card(run: RunFolder) -> tuple[dict[str, Any], str]:
    """Return the card's head as data, and its body with plain spaces."""
    _, head, body = write_card(run).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.load(head, where="card"), body.replace("\u00a0", " ")


def test_the_head_says_what_the_hub_wants(tmp_path: Path) -> None:
    head, _ = card(made_runs.twelve(tmp_path / "run"))
    assert head["language"] == ["en", "zh"]
    assert head["pipeline_tag"] == "text-classification"
    assert head["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert head["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "name": "Accuracy", "value": 0.915}


def test_the_body_says_what_was_measured_and_how_to_use_it(tmp_path: Path) -> None:
    _, body = card(made_runs.twelve(tmp_path / "run"))
    for words in (
        "| Accuracy | 91.5 % | 89.0–94.0 % |",
        "Without tuning (nearest class centroid on the untuned embeddings): 71.2 %.",
        "one of 12 labels",
        "| train | 1,200 |",
        "1 empty text, 1 missing label",
        "| `optim.learning_rate` | 0.0002 |",
        "| `training.seed` | 0 |",
        "| Kept weights | the last |",
        "2 cores",
        "luthier.load(",
        'pipeline("text-classification"',
        "licences of the base model and of the training data",
    ):
        assert words in body, words
    assert "\n\n\n" not in body


def test_every_table_is_a_table(tmp_path: Path) -> None:
    _, body = card(made_runs.seventy_seven(tmp_path / "run"))
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", body) if block.startswith("|")]
    assert len(blocks) >= 4
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block


def test_an_own_head_is_not_offered_to_plain_transformers(tmp_path: Path) -> None:
    own = made_runs.recipe(model={"path": "bert-base-uncased", "head": {"pooling": "mean"}})
    head, body = card(made_runs.write(tmp_path / "run", recipe=own, metrics=made_runs.metrics()))
    assert "pipeline(" not in body and "load it with Luthier" in body
    assert head["base_model"] == "bert-base-uncased"


def test_a_model_from_a_folder_has_no_hub_id(tmp_path: Path) -> None:
    head, body = card(made_runs.write(tmp_path / "run", recipe=made_runs.recipe(model={"path": "/home/someone/models/mine"})))
    assert "base_model" not in head and "/home/someone" not in body.split("## How to use")[0].split("## Training procedure")[0]


def test_names_cannot_break_the_tables(tmp_path: Path) -> None:
    account = made_runs.data(["a|b", "<b>c</b>", "*d*\ne"])
    _, body = card(made_runs.write(tmp_path / "run", metrics=made_runs.metrics(), data=account))
    assert "a\\|b" in body and "<b>" not in body.replace("\\<b\\>", "")


@pytest.mark.parametrize("missing", ["events", "metrics", "evaluation", "data", "recipe", "environment"])
def test_any_file_may_be_missing(missing: str, tmp_path: Path) -> None:
    run = made_runs.twelve(tmp_path / "run")
    getattr(run, missing).unlink()
    assert card(run)[1].startswith("\n# ")
