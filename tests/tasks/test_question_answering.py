"""Question answering: places of answers, windows, decoding, what is left out and why, and what the field's own scripts compute."""

from __future__ import annotations

import json
import os
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
from luthier.data.reading import RowFault
from luthier.models import pretrained
from luthier.serve.predictor import Predictor
from luthier.stages.begin import Bench
from luthier.tasks.question_answering import QuestionAnswering, QuestionAnsweringWork
from luthier.tasks.text.answers_in_context import answers_in
from luthier.tasks.text.best_spans import Window, best_spans
from luthier.tasks.text.span_windows import Marks, Windows, windows_of
from luthier.training.inference import measuring

DATA = Path(os.environ["LUTHIER_DATA"]) if os.environ.get("LUTHIER_DATA") else None
needs_data = pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA names no folder")
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


@pytest.mark.parametrize(
    ("written", "start", "texts", "starts", "guessed"),
    [
        ({"text": ["card", "my card"], "answer_start": [3, 0]}, None, ["card", "my card"], [3, 0], False),
        ([{"text": "card", "answer_start": 3}, {"text": "account", "answer_start": 26}], None, ["card", "account"], [3, 26], False),
        ('{"text": ["card"], "answer_start": [3]}', None, ["card"], [3], False),
        ("card", None, ["card"], [3], False),
        ("my", None, ["my"], [0], True),
        ("my", "23", ["my"], [23], False),
        (["card", "account"], None, ["card", "account"], [3, 26], False),
        ({"text": "is", "answer_start": 34}, None, ["is"], [34], False),
        ({"text": [], "answer_start": []}, None, [], [], False),
        ("", None, [], [], False),
        (None, None, [], [], False),
    ],
)
def test_answers_are_read_in_the_usual_forms(written: Any, start: Any, texts: list[str], starts: list[int], guessed: bool) -> None:
    assert answers_in(CONTEXT, written, start) == (texts, starts, guessed)


@pytest.mark.parametrize(
    ("written", "start", "message"),
    [
        ("parcel", None, "answer not in its context .*'parcel'.*'my card is blocked"),
        ({"text": ["card"], "answer_start": [4]}, None, "answer not at its place .*'card' at 4, got 'ard '"),
        ({"text": ["card"], "answer_start": [-40]}, None, "answer not at its place"),
        ({"text": ["card"], "answer_start": [400]}, None, "answer not at its place .*got ''"),
        ({"text": ["card"], "answer_start": [3, 4]}, None, "not one place for each answer"),
        ({"text": [3], "answer_start": [3]}, None, "answers of a wrong type"),
        (7, None, "answers of a wrong type"),
        ("card", "three", "place of an answer of a wrong type"),
    ],
)
def test_answers_that_do_not_fit_say_both_texts(written: Any, start: Any, message: str) -> None:
    with pytest.raises(RowFault, match=message):
        answers_in(CONTEXT, written, start)


def test_an_answer_to_what_is_impossible() -> None:
    with pytest.raises(RowFault, match="although is_impossible"):
        answers_in(CONTEXT, "card", impossible=True)
    assert answers_in(CONTEXT, "card", impossible=False).starts == [3]


def encoded(tiny_model: Path, question: str, context: str, answer: str | None, **settings: int) -> tuple[Windows, list[Marks], Any]:
    tokenizer = pretrained.load_tokenizer(str(tiny_model))
    span = None if answer is None else (context.index(answer), context.index(answer) + len(answer))
    found = windows_of(tokenizer, [question], [context], [span], **{"max_length": 16, "stride": 3, **settings})
    return found, [Marks.unpacked(found.marks[0], found.encoded.window_lengths.tolist())], tokenizer


def test_windows_move_over_the_context_and_point_at_the_answer(tiny_model: Path) -> None:
    words = "my card is blocked and the account is locked today since monday and they tell me this week".split()
    found, (marks,), tokenizer = encoded(tiny_model, "my account", " ".join(words), "blocked and")
    lengths = found.encoded.window_lengths.tolist()
    windows = np.split(found.encoded.tokens, np.cumsum(lengths)[:-1])
    room = 16 - 3 - 2  # three special tokens, two of the question
    assert lengths[0] == 16 and len(windows) == 1 + -(-(len(words) - room) // (room - 3))
    assert found.num_apart == 0
    for window, start, end in zip(windows, marks.start_W, marks.end_W, strict=True):
        whole = {tokenizer.convert_tokens_to_ids("blocked"), tokenizer.convert_tokens_to_ids("and")} <= set(window[4:].tolist())
        said = tokenizer.decode(window[start : end + 1])
        assert said == ("blocked and" if whole else "[CLS]")
    assert any(start > 0 for start in marks.start_W) and any(start == 0 for start in marks.start_W)
    for window, begins, ends in zip(windows, marks.begins, marks.ends, strict=True):
        told = [" ".join(words)[begin:end] for begin, end in zip(begins, ends, strict=True) if begin >= 0]
        assert told == tokenizer.convert_ids_to_tokens(window[begins >= 0])


def test_only_a_question_that_leaves_no_room_is_cut(tiny_model: Path) -> None:
    long = "my the a it is was and but we you they this"
    found, (marks,), tokenizer = encoded(tiny_model, long, "card blocked today", "blocked")
    assert found.num_cut == 1
    assert tokenizer.decode(found.encoded.tokens) == "[CLS] my the a it is [SEP] card blocked today [SEP]"
    assert (marks.start_W, marks.end_W) == ([8], [8])
    assert encoded(tiny_model, "my card", long * 3, None)[0].num_cut == 0


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


def windows_at_random(rng: np.random.Generator, lengths: tuple[int, ...], sharing: int) -> list[Window]:
    """Return windows over a context of words of one letter, each after 2 tokens of something else and before one more."""
    windows, first = [], 0
    for length in lengths:
        begin_T = np.concatenate([[-1, -1], 2 * np.arange(first, first + length), [-1]])
        stop_T = np.where(begin_T >= 0, begin_T + 1, -1)
        windows.append(Window(*rng.normal(size=(2, length + 3)).astype(np.float32), begin_T, stop_T, 0))
        first += length - sharing
    return windows


@pytest.mark.parametrize(("lengths", "longest"), [((9,), 4), ((12, 12, 5), 3), ((6, 7), 50), ((1,), 5)])
def test_the_best_spans_are_those_of_all_pairs(lengths: tuple[int, ...], longest: int) -> None:
    windows = windows_at_random(np.random.default_rng(sum(lengths)), lengths, 2)
    every: dict[tuple[int, int], float] = {}
    for window in windows:
        inside = [token for token, begin in enumerate(window.begin_T) if begin >= 0]
        for start in inside:
            for end in [token for token in inside if start <= token < start + longest]:
                place = (int(window.begin_T[start]), int(window.stop_T[end]))
                every[place] = max(every.get(place, -1e9), float(window.start_T[start]) + float(window.end_T[end]))
    wanted = sorted(every.items(), key=lambda item: -item[1])[:7]
    found = best_spans(windows, most=7, longest=longest)
    assert [tuple(place) for place in found.places_S2.tolist()] == [place for place, _ in wanted]
    assert found.score_S == pytest.approx([score for _, score in wanted])
    assert found.null == pytest.approx(min(float(window.start_T[0]) + float(window.end_T[0]) for window in windows))


def test_no_answer_is_given_by_the_threshold() -> None:
    window = Window(np.array([2.0, 0.0, 1.0]), np.array([2.0, 0.0, 1.5]), np.array([-1, -1, 4]), np.array([-1, -1, 9]), 0)
    spans = best_spans([window], most=5, longest=5)
    assert (spans.best, spans.null) == (2.5, 4.0)
    place, share = spans.chosen(may_be_none=True, threshold=0.0)
    assert place is None and share == pytest.approx(np.exp(4) / (np.exp(4) + np.exp(2.5)))
    place, share = spans.chosen(may_be_none=True, threshold=1.5)
    assert place == (4, 9) and share == pytest.approx(np.exp(2.5) / (np.exp(4) + np.exp(2.5)))
    assert spans.chosen(may_be_none=False, threshold=0.0) == ((4, 9), 1.0)
    nothing = best_spans([window._replace(begin_T=np.full(3, -1))], most=5, longest=5)
    assert nothing.chosen(may_be_none=False, threshold=0.0) == (None, 1.0)


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


def example_features(tokenizer: Any, question: str, context: str, start: int, text: str, *, max_length: int, stride: int) -> list[Any]:
    """Return (tokens, start, end, offsets of the context) of each window, as the question-answering example of transformers makes them."""
    found = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    features = []
    for window, ids in enumerate(found["input_ids"]):
        sides, offsets, null = found.sequence_ids(window), found["offset_mapping"][window], ids.index(tokenizer.cls_token_id)
        first, last = sides.index(1), len(sides) - 1 - sides[::-1].index(1)
        if not (offsets[first][0] <= start and offsets[last][1] >= start + len(text)):
            first = last = null
        else:
            while first < len(offsets) and offsets[first][0] <= start:
                first += 1
            while offsets[last][1] >= start + len(text):
                last -= 1
            first, last = first - 1, last + 1
        features.append((ids, first, last, [pair if side == 1 else None for pair, side in zip(offsets, sides, strict=True)]))
    return features


def example_answer(context: str, features: list[Any], scores: list[np.ndarray], *, n_best: int, longest: int, none: bool) -> str:
    """Return the answer that the example of transformers reads from the scores `(2, T)` of each window."""
    found, null = [], None
    for (_, _, _, offsets), (start, end) in zip(features, scores, strict=True):
        here = float(start[0] + end[0])
        null = here if null is None else min(null, here)
        for first in np.argsort(start)[: -n_best - 1 : -1].tolist():
            for last in np.argsort(end)[: -n_best - 1 : -1].tolist():
                if offsets[first] and offsets[last] and first <= last < first + longest:
                    found.append((float(start[first] + end[last]), context[offsets[first][0] : offsets[last][1]]))
    best = max(found, default=(0.0, ""))
    return "" if none and null is not None and null - best[0] > 0 else best[1]


def squad_rows(number: int) -> list[tuple[str, str, int, str]]:
    assert DATA is not None
    document = files.read_json(DATA / "squad_v1.1_dev" / "squad_v1.1_dev_rebuilt.json")
    rows = [
        (question["question"], paragraph["context"], question["answers"][0]["answer_start"], question["answers"][0]["text"])
        for article in document["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    return rows[:: len(rows) // number][:number]


@needs_data
@pytest.mark.real
def test_windows_and_answers_are_those_of_the_example_of_transformers() -> None:
    tokenizer, settings, rng = pretrained.load_tokenizer("all-MiniLM-L6-v2"), {"max_length": 128, "stride": 32}, np.random.default_rng(0)
    rows = squad_rows(200)
    spans = [(start, start + len(text)) for _, _, start, text in rows]
    found = windows_of(tokenizer, [row[0] for row in rows], [row[1] for row in rows], spans, **settings)
    ends = np.cumsum(found.encoded.num_windows_N)
    windows, several = np.split(found.encoded.tokens, np.cumsum(found.encoded.window_lengths)[:-1]), 0
    for place, (question, context, start, text) in enumerate(rows):
        features = example_features(tokenizer, question, context, start, text, **settings)
        mine = windows[ends[place] - found.encoded.num_windows_N[place] : ends[place]]
        marks = Marks.unpacked(found.marks[place], [len(window) for window in mine])
        assert [window.tolist() for window in mine] == [ids for ids, _, _, _ in features]
        assert list(zip(marks.start_W, marks.end_W, strict=True)) == [(first, last) for _, first, last, _ in features]
        several += len(mine) > 1
        scores = [rng.normal(size=(2, len(window))).astype(np.float32) for window in mine]
        of_windows = [Window(*two, *sides, null=0) for two, sides in zip(scores, zip(marks.begins, marks.ends, strict=True), strict=True)]
        best = best_spans(of_windows, most=20, longest=30)
        for none in (False, True):
            at, _ = best.chosen(may_be_none=none, threshold=0.0)
            wanted = example_answer(context, features, scores, n_best=128, longest=30, none=none)
            assert ("" if at is None else context[at[0] : at[1]]) == wanted
    assert several > 100


def test_settings_are_kept(finished: RunFolder) -> None:
    settings = files.read_json(finished.model / "luthier.json")
    assert settings["no_answer"] is True and settings["n_best"] == 5
    assert QuestionAnswering().reopen(finished.model).describe() == {key: settings[key] for key in settings if key != "task"}
