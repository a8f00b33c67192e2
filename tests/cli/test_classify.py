"""`luthier classify`: labels named on the spot, by prototypes and by entailment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import luthier as package
from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.serve.named_labels import NamedLabels, vectors, words_of
from luthier.serve.predictor import Predictor

Luthier = Callable[..., Any]
FEW = tiny.tiny_rows(12, seed=7)
LATE = "my parcel is late and the courier is at the warehouse"
TWICE = "card charged twice on the invoice"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_rows(tmp_path_factory.mktemp("few") / "few.csv", FEW)


@pytest.fixture(scope="module")
def pairs_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A classifier of pairs with a label called entailment."""
    folder, rows = tmp_path_factory.mktemp("pairs"), []
    for place, (text, label) in enumerate(tiny.tiny_rows(90)):
        about = sorted(tiny.WORDS_BY_CLASS)[place % 3]
        rows.append((text, tiny.WORDS_BY_CLASS[about][0], "entailment" if about == label else "neutral"))
    source = tiny.write_rows(folder / "rows.csv", rows, header=("text", "about", "label"))
    changes = {"data.text_pair": "about", "training.max_steps": 20, "evaluate.baseline": False}
    return flow.train(tiny.tiny_recipe(tiny_model, source, folder / "run", changes)).path


# ---- prototypes


def test_examples_of_each_label_are_enough(luthier: Luthier, tiny_run: Path, few: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "new.csv", tiny.tiny_rows(60, seed=9))
    said = luthier("classify", tiny_run, "--examples", few, "--measure", rows, "--json")
    assert said.code == 0, said.words
    assert said.object["rows"] == 60 and said.object["how"] == "prototypes" and sorted(said.object["labels"]) == sorted(tiny.WORDS_BY_CLASS)
    accuracy = said.object["scores"]["accuracy"]
    assert accuracy["value"] > 0.8 and accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert "60 rows, 3 labels, by prototypes" in said.words


def test_the_prototype_is_the_mean_direction_of_a_name_and_its_examples(tiny_run: Path) -> None:
    predictor, labels = Predictor.open(tiny_run), ("delivery_van", "payment")
    model = NamedLabels.open(tiny_run, labels, examples=[(LATE, "delivery_van")], template="it is {}")
    told = vectors(predictor, ["it is delivery van", "it is payment", LATE, TWICE])
    units = told / np.linalg.norm(told, axis=1, keepdims=True)
    prototypes = np.stack([units[0] + units[2], units[1]])
    cosines = units[3] @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    powers = np.exp((cosines - cosines.max()) / 0.05)
    assert model.probabilities([TWICE])[0] == pytest.approx(powers / powers.sum(), abs=1e-4)


def test_vectors_are_the_mean_states_of_plain_transformers(tiny_model: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModel.from_pretrained(tiny_model).eval()
    with torch.no_grad():
        plain = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for text in (LATE, TWICE)]
    assert np.abs(vectors(Predictor.open(tiny_model), [LATE, TWICE]) - np.stack(plain)).max() < 1e-5


def test_vectors_are_in_the_order_of_the_texts(tiny_run: Path) -> None:
    predictor, texts = (
        Predictor.open(tiny_run),
        [f"{text} {'please ' * (place % 20)}" for place, (text, _) in enumerate(tiny.tiny_rows(60))],
    )
    together = vectors(predictor, texts)
    assert np.abs(together[[3, 41]] - np.concatenate([vectors(predictor, [texts[place]]) for place in (3, 41)])).max() < 1e-5


def test_any_encoder_answers_texts_and_files(luthier: Luthier, tiny_model: Path, tmp_path: Path) -> None:
    said = luthier("classify", tiny_model, "--labels", "parcel, card", LATE, TWICE)
    assert said.code == 0, said.words
    assert [line["text"] for line in said.answers] == [LATE, TWICE] and set(said.answers[0]["probabilities"]) == {"parcel", "card"}
    (tmp_path / "labels.txt").write_text("parcel\ncard\n", encoding="utf-8")
    rows = tiny.write_rows(tmp_path / "new.csv", [(LATE,), ("",), (TWICE,)], header=("text",))
    out = tmp_path / "out.jsonl"
    again = luthier("classify", tiny_model, "--labels", tmp_path / "labels.txt", "--data", rows, "--out", out, "--json")
    assert again.code == 0 and again.object["rows"] == 2 and again.object["bad_rows"] == 1
    assert [line["probabilities"] for line in files.read_json_lines(out)] == [
        pytest.approx(line["probabilities"], abs=1e-5) for line in said.answers
    ]
    streamed = luthier("classify", tiny_model, "--labels", "parcel,card", lines=f"{LATE}\n{TWICE}\n")
    assert [line["label"] for line in streamed.answers] == [line["label"] for line in said.answers]
    found = package.classify(tiny_model, [LATE, TWICE], ["parcel", "card"])
    assert [answer.label for answer in found] == [line["label"] for line in said.answers]


# ---- entailment


def test_entailment_is_chosen_and_asks_of_each_label(luthier: Luthier, pairs_run: Path) -> None:
    labels = [words[0] for words in tiny.WORDS_BY_CLASS.values()]
    said = luthier("classify", pairs_run, "--labels", ",".join(labels), "--template", "{}", LATE)
    assert said.code == 0, said.words
    predictor = Predictor.open(pairs_run)
    place = predictor.work.labels.index("entailment")  # type: ignore[attr-defined]
    logits = predictor.outputs([LATE] * len(labels), labels).logits_BC[:, place].astype(np.float64)
    powers = np.exp(logits - logits.max())
    assert [said.answers[0]["probabilities"][label] for label in labels] == pytest.approx(powers / powers.sum(), abs=1e-4)
    assert NamedLabels.open(pairs_run, labels).template == "This text is about {}."


def test_prototypes_can_be_asked_of_it_too(pairs_run: Path) -> None:
    assert NamedLabels.open(pairs_run, ["a", "b"]).how == "entailment"
    assert NamedLabels.open(pairs_run, ["a", "b"], how="prototypes").how == "prototypes"
    assert NamedLabels.open(pairs_run, examples=FEW).how == "prototypes"


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "one", LATE], "got 1, wanted two or more"),
        ([LATE], "got 0, wanted two or more"),
        (["--labels", "a,,b", LATE], "an empty label"),
        (["--labels", "a,b,a", LATE], "got 'a' twice"),
        (["--labels", "gone.txt", LATE], "there is no file 'gone.txt'"),
        (["--labels", "a,b", "--template", "about it", LATE], "wanted a sentence with one {}"),
        (["--labels", "a,b", "--how", "entailment", LATE], "has no label called entailment"),
        (["--labels", "a,b", "--data", "x.csv", LATE], "more than one of"),
        (["--labels", "a,b", " "], "got an empty text"),
    ],
)
def test_what_cannot_be_answered_is_said(arguments: list[str], said: str, luthier: Luthier, tiny_run: Path) -> None:
    found = luthier("classify", tiny_run, *arguments)
    assert found.code == 2 and said in found.words, found.words


def test_examples_of_labels_that_are_not_named(luthier: Luthier, tiny_run: Path, few: Path) -> None:
    found = luthier("classify", tiny_run, "--labels", "delivery,payment", "--examples", few, LATE)
    assert found.code == 2 and "has labels that are not named: login" in found.words


def test_examples_teach_entailment_nothing(pairs_run: Path) -> None:
    with pytest.raises(ConfigError, match="examples teach it nothing"):
        NamedLabels.open(pairs_run, examples=FEW, how="entailment")


def test_names_become_words() -> None:
    assert words_of("card_arrival") == "card arrival" and words_of("on  time") == "on time"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif("LUTHIER_DATA" not in os.environ, reason="LUTHIER_DATA is not set: the real data sets are not here")
def test_names_of_intents_alone(luthier: Luthier) -> None:
    folder = Path(os.environ["LUTHIER_DATA"]) / "banking77"
    labels, rows = ",".join(files.read_json(folder / "categories.json")), folder / "test.csv"
    said = luthier("classify", "all-MiniLM-L6-v2", "--labels", labels, "--measure", rows, "--label", "category", "--json")
    assert said.code == 0 and 0.5 < said.object["scores"]["accuracy"]["value"] < 0.8
