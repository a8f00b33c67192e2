"""Span extraction: spans of a prompt in windows, how ends are paired, what is left out and why."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from benches import bench_of
from row_tasks import span_extraction as rows_of_task

from luthier import flow
from luthier.cli.main import main
from luthier.core import files
from luthier.core.run_folder import RunFolder
from luthier.data.reading import RowFault
from luthier.tasks.span_extraction import found_in
from luthier.tasks.text.best_spans import Window
from luthier.tasks.text.extraction_rows import spans_in

TEXT = "my card is blocked and my account is locked"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunFolder:
    folder = tmp_path_factory.mktemp("spans")
    changes = {**deepcopy(rows_of_task.CHANGES), "training.max_steps": 200}
    return flow.train(tiny.tiny_recipe(tiny_model, rows_of_task.write(folder), folder / "run", changes))


@pytest.mark.parametrize(
    ("written", "spans", "guessed"),
    [
        ([{"text": "card", "start": 3, "end": 7}, {"start": 26, "end": 33}], [(3, 7), (26, 33)], False),
        ([[26, 33], [3, 7]], [(3, 7), (26, 33)], False),
        (["card", "my"], [(0, 2), (3, 7)], True),
        ('[{"start": 3, "end": 7}]', [(3, 7)], False),
        ([], [], False),
        (None, [], False),
        ("", [], False),
    ],
)
def test_spans_are_read_in_the_usual_forms(written: Any, spans: list[tuple[int, int]], guessed: bool) -> None:
    assert spans_in(TEXT, written) == (spans, guessed)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([{"start": 40, "end": 50}], r"span outside the text \(got 40 to 50 of 43\)"),
        ([{"start": 7, "end": 3}], "span outside the text"),
        ([{"text": "card", "start": 4, "end": 8}], "span not at its place .*'card' at 4 to 8, got 'ard '"),
        (["parcel"], "span not in its text"),
        ([3], "span of a wrong type"),
        ([{"start": "3", "end": 7}], "span of a wrong type"),
        ("card", "spans of a wrong type"),
        (7, "spans of a wrong type"),
    ],
)
def test_spans_that_do_not_fit_are_named(written: Any, message: str) -> None:
    with pytest.raises(RowFault, match=message):
        spans_in(TEXT, written)


def window(starts: list[float], ends: list[float]) -> Window:
    begin_T = np.concatenate([[-1], 2 * np.arange(len(starts) - 1)])
    return Window(np.array(starts), np.array(ends), begin_T, np.where(begin_T >= 0, begin_T + 1, -1), 0)


def test_ends_are_paired_with_the_nearest_beginning() -> None:
    found = dict(found_in(window([0.9, 0.9, 0.1, 0.8, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1, 0.7, 0.6]), 0.5, 10))
    assert found == pytest.approx({(4, 7): 0.8 * 0.7}), "one beginning, one end; what stands outside the text is not looked at"
    found = dict(found_in(window([0.0, 0.9, 0.1, 0.8, 0.9], [0.0, 0.1, 0.7, 0.1, 0.6]), 0.5, 10))
    assert found == pytest.approx({(0, 3): 0.9 * 0.7, (6, 7): 0.9 * 0.6})
    assert dict(found_in(window([0.0, 0.9, 0.1], [0.0, 0.1, 0.7]), 0.5, 1)) == {}, "longer than the most"


def test_each_window_learns_the_spans_that_it_holds(tmp_path: Path, tiny_model: Path) -> None:
    bench = bench_of(tiny.tiny_recipe(tiny_model, rows_of_task.write(tmp_path), tmp_path / "run", deepcopy(rows_of_task.CHANGES)))
    split = bench.prepared.splits["train"]
    rows = [split.row(index) for index in range(30)]
    assert any(len(row.windows) > 1 for row in rows)
    for row in rows:
        batch, kept = bench.work.collate([row]), json.loads(str(row.record))
        starts, ends = (batch.targets[name].numpy() for name in ("start", "end"))
        chars_WT2 = batch.targets["chars"].numpy()
        assert {*chars_WT2[starts > 0][:, 0].tolist()} == {begin for begin, _ in kept["spans"]}
        assert {*chars_WT2[ends > 0][:, 1].tolist()} == {end for _, end in kept["spans"]}
        assert bench.work.weights(batch) == {"loss": float((chars_WT2[..., 0] >= 0).sum())}


def test_spans_that_no_window_holds_are_said(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"{TEXT} {word}", "prompt": "card", "spans": [[0, 43]]} for word in tiny.FILLERS[:12]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    changes = {**deepcopy(rows_of_task.CHANGES), "data.max_length": 12, "data.window_stride": 2}
    notes = bench_of(tiny.tiny_recipe(tiny_model, path, tmp_path / "run", changes)).prepared.facts["notes"]
    assert "train: 9 spans stand whole in no window and are not learnt (a larger data.window_stride may hold them)" in notes
    changes = {**deepcopy(rows_of_task.CHANGES), "task": {"type": "span-extraction", "max_span_length": 3}}
    notes = bench_of(tiny.tiny_recipe(tiny_model, path, tmp_path / "run", changes)).prepared.facts["notes"]
    assert "train: 9 spans have more than 3 tokens and cannot be found (task.max_span_length)" in notes


def test_it_finds_what_the_prompt_names(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.read_json(finished.metrics)["scores"]["test"]["f1"]["value"] > 0.6
    details = files.read_json(finished.evaluation)["test"]
    assert {item["label"] for item in details["per_class"]} == set(rows_of_task.PROMPTS)
    text = "hello the password and the refund and the email"
    assert main(["predict", str(finished.path), text, text, "--pair", "password", "--pair", "card"]) == 0
    login, payment = (json.loads(line)["label"] for line in capsys.readouterr().out.splitlines())
    for found in (*login, *payment):
        assert text[found["start"] : found["end"]] == found["text"]
    assert "password" in {found["text"] for found in login} and "password" not in {found["text"] for found in payment}
    assert main(["predict", str(finished.path), text]) == 2
    assert "--pair" in capsys.readouterr().err
