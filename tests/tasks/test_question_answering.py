"""Question answering: what is left out and why, the loss of transformers, no answer, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from benches import bench_of
from row_tasks import question_answering as rows_of_task

from luthier import flow
from luthier.cli.main import main
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.core.run_folder import RunFolder
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench
from luthier.tasks.question_answering import QuestionAnswering, QuestionAnsweringWork
from luthier.tasks.text.span_windows import Marks
from luthier.training.inference import measuring

CONTEXT = "my card is blocked and my account is locked"
Lay = Callable[..., Bench]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunFolder:
    """A run that may answer with nothing; read it, never write into it."""
    folder = tmp_path_factory.mktemp("qa")
    changes = {**deepcopy(rows_of_task.CHANGES), "training.max_steps": 150}
    return flow.train(tiny.tiny_recipe(tiny_model, rows_of_task.write(folder), folder / "run", changes))


@pytest.fixture
def lay(tmp_path: Path, tiny_model: Path) -> Lay:
    def make(rows: list[dict[str, Any]] | None = None, changes: dict[str, Any] | None = None) -> Bench:
        path = rows_of_task.write(tmp_path) if rows is None else tmp_path / "given.jsonl"
        if rows is not None:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return bench_of(tiny.tiny_recipe(tiny_model, path, tmp_path / "run", {**deepcopy(rows_of_task.CHANGES), **(changes or {})}))

    return make


def work_of(bench: Bench) -> QuestionAnsweringWork:
    assert isinstance(bench.work, QuestionAnsweringWork)
    return bench.work


def test_answers_that_no_window_holds_are_counted_and_said(lay: Lay) -> None:
    context = "my card is blocked and the account is locked today since monday and they tell me this week please help me now"
    rows = [{"question": f"my {word}", "context": context, "answers": context[8:90]} for word in tiny.FILLERS[:12]]
    bench = lay(rows, {"data.max_length": 16, "data.window_stride": 3, "task.max_answer_length": 2})
    assert "train: 9 answers stand whole in no window and are learnt as none (a larger data.window_stride may hold them)" in notes(bench)
    rows = [{"question": f"my {word}", "context": context, "answers": "and the account"} for word in tiny.FILLERS[:12]]
    bench = lay(rows, {"task.max_answer_length": 2})
    assert "train: 9 answers have more than 2 tokens and cannot be given (task.max_answer_length)" in notes(bench)


def notes(bench: Bench) -> list[str]:
    found: list[str] = bench.prepared.facts["notes"]
    return found


def test_rows_that_cannot_be_used_are_named(lay: Lay) -> None:
    good = [{"question": f"my {word}", "context": CONTEXT, "answer": "card"} for word in tiny.FILLERS[:20]]
    bad = [{"question": "what", "context": CONTEXT, "answer": "parcel"}, {"question": "what", "context": None, "answer": "card"}]
    bench = lay([*good, *bad, {"question": "my is", "context": CONTEXT, "answer": "is"}], {"data.max_bad_rows": 0.2})
    lines = files.read_json_lines(bench.prepared.quarantine)
    assert [line["row"] for line in lines] == [21, 22]
    assert lines[0]["reason"] == f"answer not in its context (got 'parcel', context {CONTEXT!r})"
    assert lines[1]["reason"] == "context of a wrong type (got NoneType, wanted text)"
    assert any("1 answers stand in their context more than once" in note for note in notes(bench))
    with pytest.raises(DataError, match="answer not in its context"):
        lay([*good, *bad])
    with pytest.raises(DataError, match="data.text_pair"):
        lay([{"question": "my", "answer": "card"}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "focal"}, "loss"),
        ({"data.augment": ["word-dropout"]}, "data.augment"),
        ({"model.head": {"pooling": "mean"}}, "model.head"),
        ({"model.head": {"dropout": 0.3}}, "model.head.dropout"),
        ({"data.window_stride": 29}, "data.window_stride"),
    ],
)
def test_what_does_not_go_with_it_is_refused(lay: Lay, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lay(None, changes)


def test_the_loss_is_that_of_transformers(lay: Lay) -> None:
    bench = lay(None, {"model.head.dropout": 0.0})
    split = bench.prepared.splits["train"]
    chosen = [split.row(int(index)) for index in np.flatnonzero(split.num_windows_N == 1)]
    alike = [row for row in chosen if len(row.windows[0]) == len(chosen[0].windows[0])][:6]
    batch = bench.work.collate(alike)
    with measuring(bench.parts):
        term = bench.work.losses(bench.parts, batch)["loss"]
        module: Any = bench.parts["model"].module
        theirs = module(**batch.inputs, start_positions=batch.targets["start"], end_positions=batch.targets["end"]).loss
    assert len(alike) > 2
    assert float(term.sum / term.weight) == pytest.approx(float(theirs), abs=1e-6)


def test_every_window_weighs_as_much(lay: Lay) -> None:
    bench = lay()
    split = bench.prepared.splits["train"]
    rows = [split.row(index) for index in range(12)]
    windows = sum(len(row.windows) for row in rows)
    assert windows > len(rows), "some contexts are longer than a window"
    assert bench.work.weights(bench.work.collate(rows)) == {"loss": float(windows)}


def test_whether_there_may_be_no_answer_follows_the_rows(lay: Lay) -> None:
    assert work_of(lay()).settings.no_answer is True
    assert any("questions have no answer in their context" in note for note in notes(lay()))
    assert work_of(lay(None, {"task.no_answer": False})).settings.no_answer is False
    rows = [{"question": f"my {word}", "context": CONTEXT, "answer": "card"} for word in tiny.FILLERS[:12]]
    assert work_of(lay(rows)).settings.no_answer is False


def test_it_finds_answers_and_that_there_are_none(finished: RunFolder) -> None:
    scores = files.read_json(finished.metrics)["scores"]["test"]
    assert scores["answerable_f1"]["value"] > 0.6 and scores["unanswerable_accuracy"]["value"] > 0.6
    predictor = Predictor.open(finished.path)
    contexts = ["we this still and the password email again very now", "hello we this still again today please"]
    there, none = (answer.label for answer in predictor.answer(["what about the screen"] * 2, contexts))
    assert set(there) == {"answer", "start", "end", "score"} and 0 < there["score"] <= 1
    assert contexts[0][there["start"] : there["end"]] == there["answer"] and "password email" in there["answer"]
    assert (none["answer"], none["start"], none["end"]) == ("", 0, 0)


def test_a_threshold_makes_it_answer_more_or_less(finished: RunFolder) -> None:
    predictor = Predictor.open(finished.path)
    work = predictor.work
    assert isinstance(work, QuestionAnsweringWork)
    lines = files.read_json_lines(finished.reference)
    outputs = predictor.outputs([line["text"] for line in lines], [line["text_pair"] for line in lines])

    def given(threshold: float) -> int:
        other = replace(work, settings=work.settings.model_copy(update={"null_threshold": threshold}))
        return sum(bool(answer.label["answer"]) for answer in other.answers(outputs))

    assert given(-1e9) == 0 and given(1e9) == len(lines) and 0 < given(0.0) < len(lines)


def test_plain_transformers_loads_what_is_saved(finished: RunFolder) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(finished.model), AutoTokenizer.from_pretrained(finished.model)
    question, context = "what about the screen", "we this still and the password email again very now"
    inputs = tokenizer(question, context, return_tensors="pt")
    with torch.inference_mode():
        said = model.eval()(**inputs)
    inside = torch.tensor([side == 1 for side in inputs.sequence_ids(0)])
    scores_TT = said.start_logits[0][:, None] + said.end_logits[0][None, :]
    allowed_TT = (inside[:, None] & inside[None, :]).triu()
    start, end = divmod(int(scores_TT.masked_fill(~allowed_TT, -1e9).argmax()), len(inside))
    (answer,) = Predictor.open(finished.path).answer([question], [context])
    assert answer.label["answer"] == context[inputs.token_to_chars(start).start : inputs.token_to_chars(end).end]


def test_the_command_line_takes_a_context(finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = "we this still and the password email again very now"
    assert main(["predict", str(finished.path), "what about the screen", "tell me", "--pair", context]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and "password email" in lines[0]["label"]["answer"]
    assert main(["predict", str(finished.path), "what about the screen"]) == 2
    assert "--pair" in capsys.readouterr().err
    assert main(["predict", str(finished.path), "what", "about", "this", "--pair", context, "--pair", context]) == 2
    assert "got 2 second texts for 3 texts" in capsys.readouterr().err
    paragraph = {"context": context, "qas": [{"id": "1", "question": "what about the screen"}, {"id": "2", "question": "hello"}]}
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}), encoding="utf-8")
    assert main(["predict", str(finished.path), "--data", str(squad)]) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(again) == 2 and again[0]["label"] == lines[0]["label"]
    assert main(["predict", str(finished.path), "--data", str(squad), "--out", str(tmp_path / "answers.parquet")]) == 0


def test_articles_are_held_apart(tmp_path: Path, tiny_model: Path) -> None:
    rows = [json.loads(line) for line in rows_of_task.write(tmp_path).read_text(encoding="utf-8").splitlines()]
    articles = []
    for number in range(10):
        paragraphs = []
        for place, row in enumerate(rows[number * 12 : number * 12 + 12]):
            answers = [{"text": text, "answer_start": row["context"].index(text)} for text in row["answers"]["text"]]
            question = {"id": f"{number}-{place}", "question": row["question"], "answers": answers, "is_impossible": not answers}
            paragraphs.append({"context": row["context"], "qas": [question]})
        articles.append({"title": f"article {number}", "paragraphs": paragraphs})
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")
    changes = {**deepcopy(rows_of_task.CHANGES), "data.split": {"test": 0.2, "group_by": "title"}}
    bench = bench_of(tiny.tiny_recipe(tiny_model, squad, tmp_path / "run", changes))
    article_of = {context["context"]: article["title"] for article in articles for context in article["paragraphs"]}
    sides = [{article_of[pair] for pair in split.pairs(range(len(split))) or ()} for split in bench.prepared.splits.values()]
    assert [len(side) for side in sides] == [8, 2] and not sides[0] & sides[1]


def test_chinese_is_read_and_compared_by_characters(lay: Lay) -> None:
    rows = []
    for place, sign in enumerate(tiny.CHINESE[:12]):
        context = f"我们{sign}的时候来到这个他们，有我在不会了。"
        rows.append({"问题": f"他是{sign}", "上下文": context, "答案": "有我在" if place % 2 else "时候来到"})
    bench = lay(rows)
    split, work = bench.prepared.splits["train"], work_of(bench)
    row = split.row(0)
    marks = Marks.unpacked(np.asarray(row.target), [len(window) for window in row.windows])
    kept = json.loads(str(row.record))
    (begin, end) = (int(sides[0][at[0]]) for sides, at in ((marks.begins, marks.start_W), (marks.ends, marks.end_W)))
    assert kept["context"][begin:end] == kept["answers"][0]
    unknown = bench.prepared.facts["tokens"]["unknown_share_by_split"]["train"]
    assert unknown == 0, "characters of contexts are taught too"
    with measuring(bench.parts):
        outputs = work.outputs(bench.parts, work.collate([row]))
    said = outputs.said[0]._replace(right=["有我在这个"])
    spans = said.spans._replace(places_S2=np.array([[said.context.index("有我在"), said.context.index("有我在") + 3]]), score_S=np.ones(1))
    found = work.answered(replace(outputs, said=type(outputs).of([0], [said._replace(spans=spans)]).said))
    assert found.scores(resamples=0)["f1"].value == pytest.approx(2 * 3 / (3 + 5))


def test_settings_are_kept(finished: RunFolder) -> None:
    settings = files.read_json(finished.model / "luthier.json")
    assert settings["no_answer"] is True and settings["n_best"] == 5
    assert QuestionAnswering().reopen(finished.model).describe() == {key: settings[key] for key in settings if key != "task"}
