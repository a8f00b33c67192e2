"""Places of answers: read from rows, found in windows, and decoded, as the field's own script does it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.core import files
from luthier.data.reading import RowFault
from luthier.models import pretrained
from luthier.tasks.text.answers_in_context import answers_in
from luthier.tasks.text.best_spans import Window, best_spans
from luthier.tasks.text.span_windows import Marks, Windows, windows_of

DATA = Path(os.environ["LUTHIER_DATA"]) if os.environ.get("LUTHIER_DATA") else None
needs_data = pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA names no folder")
CONTEXT = "my card is blocked and my account is locked"


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
