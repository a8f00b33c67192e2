"""Multiple choice: forms of rows, answers by text, letter or number, a loss over each row's own choices, what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from row_tasks import multiple_choice as rows_of_task
from torch.nn import functional

from luthier import flow
from luthier.cli.main import main
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.core.run_folder import RunFolder
from luthier.data.reading import RowFault
from luthier.data.section import DataSection
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import lay_out
from luthier.tasks.multiple_choice import log_shares
from luthier.tasks.text.choices import AnswerRule, Asked, asked, read_asked

MakeRecipe = Callable[..., dict[str, Any]]
TASK = {"task": "multiple-choice"}


def read(row: dict[str, Any], **settings: Any) -> Asked:
    return read_asked(row, DataSection(**settings), None)[0]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- forms of rows


@pytest.mark.parametrize(
    ("row", "text", "question", "choices"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": 0}, "q", None, ("a", "b")),
        ({"sent1": "s", "sent2": "he", "ending0": "a", "ending1": "b", "label": 1}, "s", "he", ("a", "b")),
        ({"article": "s", "question": "q", "options": '["a", "b", "c"]', "answer": "C"}, "s", "q", ("a", "b", "c")),
        ({"premise": "s", "choice10": "k", "choice2": "b", "choice1": "a", "label": 0}, "s", None, ("a", "b", "k")),
        ({"Question": "q", "A": "x", "B": "y", "C": "z", "D": "", "Answer": "B"}, "q", None, ("x", "y", "z")),
        ({"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "q", None, ("x", "y")),
        ({"question": "q", "choices": [{"text": "x", "label": "A"}, {"text": 7, "label": "B"}]}, "q", None, ("x", "7")),
    ],
    ids=["list", "SWAG", "RACE, as JSON", "COPA, out of order", "letters", "ARC", "list of objects"],
)
def test_forms_that_data_is_handed_about_in(row: dict[str, Any], text: str, question: str | None, choices: tuple[str, ...]) -> None:
    found = read(row)
    assert (found.text, found.question, found.choices) == (text, question, choices)
    assert asked(found.text, found.pair) == found
    assert found.seconds == [choice if question is None else f"{question} {choice}" for choice in choices]


def test_columns_that_are_named() -> None:
    row = {"stem": "q", "about": "c", "one": "a", "two": "b", "choices": ["never", "read"]}
    found, _ = read_asked(row, DataSection(text="about", text_pair="stem"), ("one", "two"))
    assert found == Asked("c", ("a", "b"), "q")
    assert asked("q", "yes\nno").choices == ("yes", "no")


@pytest.mark.parametrize(
    ("answer", "choices", "place"),
    [
        (2, "x y z", 2),
        ("2", "x y z", 2),
        (1.0, "x y z", 1),
        ("B", "x y z", 1),
        ("c", "x y z", 2),
        (" y ", "x y z", 1),
        ("1", "0 1 2", 1),
    ],
)
def test_an_answer_by_number_letter_or_text(answer: Any, choices: str, place: int) -> None:
    assert AnswerRule().place(answer, choices.split()) == place


def test_a_name_of_the_row_goes_first_and_settings_decide() -> None:
    assert AnswerRule().place("1", ["x", "y", "z"], ["1", "2", "3"]) == 0
    assert AnswerRule(first=1).place("1", ["x", "y"]) == 0
    assert AnswerRule("text").place("3", ["2", "3", "5", "1"]) == 1
    assert AnswerRule("number").place("3", ["2", "3", "5", "1"]) == 3


@pytest.mark.parametrize(
    ("rule", "answer", "said"),
    [
        (AnswerRule(), "w", "answer not among the choices \\(got 'w'; numbers count from 0; choices: '1', 'y', 'z'"),
        (AnswerRule(), 3, "answer not among the choices \\(got '3'"),
        (AnswerRule(first=1), 0, "numbers count from 1"),
        (AnswerRule(), "1", "several ways \\(got '1', the text of '1' and the number of 'y'; say which: task.answer=text"),
        (AnswerRule(), "", "no answer"),
        (AnswerRule(), None, "no answer"),
        (AnswerRule("letter"), "y", "answer not among the choices"),
    ],
)
def test_an_answer_that_names_no_choice_or_several(rule: AnswerRule, answer: Any, said: str) -> None:
    with pytest.raises(RowFault, match=said):
        rule.place(answer, ["1", "y", "z"])


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (["a"], "fewer than two choices \\(got 1\\)"),
        (["a", "b", "a"], "equal choices \\(got 'a' twice\\)"),
        (["a", " ", "b"], "empty choice"),
        ("a or b", "wrong type \\(got the text 'a or b'"),
        (None, "wrong type"),
        (["a", None], "choice of a wrong type"),
    ],
)
def test_choices_that_are_none(choices: Any, said: str) -> None:
    with pytest.raises(RowFault, match=said):
        read({"question": "q", "choices": choices})


def test_missing_columns_are_named_with_those_there_are() -> None:
    with pytest.raises(DataError, match="there are 'question', 'answer'") as caught:
        read({"question": "q", "answer": 1})
    assert caught.value.where == "task.choices"
    with pytest.raises(DataError, match="there are 'choices'"):
        read({"choices": ["a", "b"]})


def test_bad_rows_are_named_in_the_quarantine(recipe: MakeRecipe, tmp_path: Path) -> None:
    good = [{"question": f"number {number}", "choices": ["yes", "no"], "answer": number % 2} for number in range(60)]
    bad = [{"question": "one", "choices": ["yes", "yes"], "answer": 0}, {"question": "two", "choices": ["yes", "no"], "answer": "maybe"}]
    prepared = flow.prepare(resolve(recipe("run", TASK, rows=write(tmp_path / "rows.jsonl", good + bad))))
    lines = files.read_json_lines(prepared.quarantine)
    assert [(line["row"], line["reason"].partition(" (")[0]) for line in lines] == [
        (61, "equal choices"),
        (62, "answer not among the choices"),
    ]
    assert "train: 2 choices a row; a guess is right in 50.0%" in prepared.facts["notes"]


def test_choices_that_are_the_same_once_cut_are_left_out_and_said(recipe: MakeRecipe, tmp_path: Path) -> None:
    good = [{"question": f"number {number}", "choices": ["yes", "no"], "answer": 0} for number in range(40)]
    long = {"question": "q", "choices": ["the " * 40 + "end", "the " * 40 + "start"], "answer": 0}
    source = write(tmp_path / "rows.jsonl", [*good, long])
    prepared = flow.prepare(resolve(recipe("run", {**TASK, "data.max_length": 16, "data.split": {"test": 0.0}}, rows=source)))
    assert [line["reason"] for line in files.read_json_lines(prepared.quarantine)] == [
        "choices that are the same once they are cut (to 16 tokens)"
    ]
    assert len(prepared.splits["train"]) == 40


# ---- windows and loss


def test_each_choice_is_a_window_and_the_loss_is_cross_entropy_over_them(recipe: MakeRecipe, tmp_path: Path) -> None:
    resolved = resolve(recipe("run", TASK, rows=rows_of_task.write(tmp_path)))
    laid = lay_out(resolved, flow.prepare(resolved))
    split, module = laid.prepared.splits["train"], laid.parts["model"].module.eval()
    with torch.no_grad():
        module.classifier.weight.normal_(generator=torch.Generator().manual_seed(0))
        rows = [split.row(index) for index in range(7)]
        batch = laid.work.collate(rows)
        term = laid.work.losses(laid.parts, batch)["loss"]
        by_hand = 0.0
        for row in rows:
            alone = laid.work.collate([row])
            inputs = {name: values.unsqueeze(0) for name, values in alone.inputs.items()}
            by_hand += float(functional.cross_entropy(module(**inputs).logits, torch.tensor([row.target]), reduction="sum"))
    assert sorted({len(row.windows) for row in rows}) == [2, 3, 4]
    assert len(batch.inputs["input_ids"]) == sum(len(row.windows) for row in rows)
    assert float(term.sum) == pytest.approx(by_hand, rel=1e-5) and by_hand > 1


def test_a_softmax_over_each_row() -> None:
    logits_W = torch.tensor([0.0, 1.0, 500.0, 499.0, -3.0])
    found = log_shares(logits_W, torch.tensor([0, 0, 1, 1, 1]), 2)
    expected = torch.cat([logits_W[:2].log_softmax(0), logits_W[2:].log_softmax(0)])
    assert torch.allclose(found, expected, atol=1e-6)


# ---- a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunFolder:
    import tiny

    folder = tmp_path_factory.mktemp("choice")
    return flow.train(tiny.tiny_recipe(tiny_model, rows_of_task.write(folder), folder / "run", {**TASK, "training.max_steps": 80}))


def test_it_learns_and_plain_transformers_loads_it(finished: RunFolder) -> None:
    from transformers import AutoModelForMultipleChoice, AutoTokenizer

    assert files.read_json(finished.metrics)["scores"]["test"]["accuracy"]["value"] > 0.8
    line = files.read_json_lines(finished.reference)[0]
    choices = json.loads(line["text_pair"])
    tokenizer, model = AutoTokenizer.from_pretrained(finished.model), AutoModelForMultipleChoice.from_pretrained(finished.model)
    inputs = tokenizer([line["text"]] * len(choices), choices, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**{name: values.unsqueeze(0) for name, values in inputs.items()}).logits[0]
    assert logits.log_softmax(0).tolist() == pytest.approx(line["logits"], abs=1e-4)
    assert line["label"] == {"choice": choices[int(logits.argmax())], "index": int(logits.argmax())}


def test_predict_reads_rows_with_choices(finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = files.read_json_lines(finished.reference)[:5]
    rows = [{"question": line["text"], "choices": json.loads(line["text_pair"])} for line in lines]
    source = write(tmp_path / "new.jsonl", [*rows, {"question": "q", "choices": ["one"]}])
    assert main(["predict", str(finished.path), "--data", str(source), "--out", str(tmp_path / "out.jsonl")]) == 0
    answers = files.read_json_lines(tmp_path / "out.jsonl")
    assert [answer["label"] for answer in answers] == [line["label"] for line in lines]
    assert answers[0]["probability"] == max(answers[0]["probabilities"].values())
    (bad,) = files.read_json_lines(tmp_path / "out.quarantine.jsonl")
    assert bad["row"] == 6 and bad["reason"].startswith("fewer than two choices")
    with (tmp_path / "new.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["question", "A", "B"], [rows[0]["question"], *rows[0]["choices"][:2]]])
    assert main(["predict", str(finished.path), "--data", str(tmp_path / "new.csv")]) == 0
    assert sorted(json.loads(capsys.readouterr().out.splitlines()[-1])["probabilities"]) == ["0", "1"]


def test_answers_of_the_predictor(finished: RunFolder) -> None:
    predictor = Predictor.open(finished.path)
    (answer,) = predictor.answer(["tell me"], ["password reset\nhello today"])
    assert answer.label == {"choice": "password reset", "index": 0} and sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="no choices"):
        list(predictor.answer(["tell me"]))
    with pytest.raises(DataError, match="text 1: fewer than two choices"):
        list(predictor.answer(["tell me"], ['["one"]']))


def test_mistakes_name_choices(finished: RunFolder) -> None:
    work, sheet = Predictor.open(finished.path).work, files.read_json(finished.evaluation)["test"]
    assert work.describe() == {"max_length": 64, "choices": None, "answer": "auto", "first": 0}
    for mistake in sheet["mistakes"]:
        assert mistake["truth"] != mistake["predicted"] and mistake["probability"] >= mistake["truth_probability"]
    assert len(sheet["mistakes"]) == round(
        (1 - files.read_json(finished.metrics)["scores"]["test"]["accuracy"]["value"]) * sheet["num_rows"]
    )


# ---- what does not go with it


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "focal"}, "each row has choices of its own"),
        ({"data.long_texts": "windows"}, "every choice is a window"),
        ({"model.head": {"pooling": "mean"}}, "head of the model family"),
        ({"task": {"type": "multiple-choice", "first": 2}}, "first"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        resolved = resolve(recipe("run", {**TASK, **changes}, rows=rows_of_task.write(tmp_path)))
        lay_out(resolved, flow.prepare(resolved))


def test_settings_are_kept(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [{"q": f"number {number}", "one": "password", "two": "hello", "right": 1 + number % 2} for number in range(40)]
    task = {"type": "multiple-choice", "choices": ["one", "two"], "first": 1}
    changes = {"task": task, "data.text": "q", "data.label": "right", "training.max_steps": 2}
    run = flow.train(recipe("run", changes, rows=write(tmp_path / "rows.jsonl", rows)))
    work = Predictor.open(run.path).work
    assert work.describe()["choices"] == ["one", "two"] and work.describe()["first"] == 1
    again = flow.evaluate(run.path, data=str(tmp_path / "rows.jsonl"))["scores"]["test"]["accuracy"]["value"]
    assert np.isfinite(again)
