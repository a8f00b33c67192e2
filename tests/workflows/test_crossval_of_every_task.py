"""Cross-validation of every task: rows in folds, and one score of all rows, each answered by the run that did not train on it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from scipy import stats
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe
from tiny_seq2seq import make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs, write_parallel

from luthier import flow
from luthier.core.model_folder import read_settings
from luthier.data.prepared import ID_SPAN
from luthier.metrics.answered import Answered
from luthier.metrics.joined import Joined
from luthier.metrics.likelihoods import Likelihoods, likelihood_sums
from luthier.recipe import resolve
from luthier.tasks import tasks
from luthier.workflows.crossval import CrossValidation, cross_validate
from luthier.workflows.out_of_fold import as_one, out_of_fold_scores

QUICK = {"training.max_steps": 2, "evaluate.baseline": False, "data.split": {}}
ROW_TASKS = [name for name in tasks.names() if tasks.get(name).answers_with == "rows"]


def recipe_of(task: str, folder: Path, tiny_model: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    module = import_module(f"row_tasks.{task.replace('-', '_')}")
    model = module.make_model(folder / "model") if hasattr(module, "make_model") else tiny_model
    return tiny.tiny_recipe(model, module.write(folder), folder / "cv", {"task": task, **module.CHANGES, **QUICK, **(changes or {})})


def check(found: dict[str, Any], primary: str) -> None:
    """The rows of all folds are all rows; the score of all of them stands between those of the folds, or near them."""
    assert sum(found["rows_of_folds"]) + found["always_trained"] == found["rows"] and min(found["rows_of_folds"]) > 0
    score, whole = found["scores"][primary], found["out_of_fold"]["scores"][primary]
    assert score["folds"] == 2 and score["value"] == pytest.approx(np.mean([run["scores"][primary] for run in found["runs"]]))
    assert whole["low"] <= whole["value"] <= whole["high"]


@pytest.mark.parametrize("task", ROW_TASKS)
def test_rows_of_every_kind(task: str, tiny_model: Path, tmp_path: Path) -> None:
    found = cross_validate(recipe_of(task, tmp_path, tiny_model), num_folds=2)
    check(found, tasks.get(task).primary_metric)
    assert found["out_of_fold"]["rows"] == sum(found["rows_of_folds"]) or task == "fill-mask", "its rows may be pieces of texts"


def test_classes_in_an_order(tiny_model: Path, tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "stars.csv", tiny.tiny_star_rows(60))
    found = cross_validate(tiny.tiny_recipe(tiny_model, file, tmp_path / "cv", {"task": "ordinal-classification", **QUICK}), num_folds=2)
    check(found, tasks.get("ordinal-classification").primary_metric)
    each = [run["scores"]["accuracy"] for run in found["runs"]]
    assert found["out_of_fold"]["scores"]["accuracy"]["value"] == pytest.approx(np.average(each, weights=found["rows_of_folds"]))


def test_texts_that_are_written(tmp_path: Path) -> None:
    rows = write_instructions(tmp_path / "rows.jsonl", tiny_instructions(40))
    found = cross_validate(writing_recipe(make_tiny_decoder(tmp_path / "model"), rows, tmp_path / "cv", QUICK), num_folds=2)
    check(found, "loss")
    assert found["out_of_fold"]["rows"] == 40


def test_encoder_decoders_and_two_files_line_by_line(tmp_path: Path) -> None:
    model = make_tiny_seq2seq(tmp_path / "model")
    file = write_pairs(tmp_path / "rows.jsonl", tiny_pairs(40))
    found = cross_validate(pairs_recipe(model, file, tmp_path / "cv", {**QUICK, "task": "translation"}), num_folds=2)
    check(found, "loss")
    assert {"bleu", "chrf"} <= found["out_of_fold"]["scores"].keys(), "of the texts that the runs wrote, too"
    parallel = write_parallel(tmp_path, "both", tiny_pairs(40))
    task = {"type": "translation", "target_file": str(tmp_path / "both.de")}
    begun = CrossValidation.begin(pairs_recipe(model, parallel, tmp_path / "lines", {**QUICK, "task": task}), num_folds=4)
    sides = [flow.prepare(resolve(begun.recipe_of(number))).splits for number in (1, 2, 3, 4)]
    assert sorted(id_ for one in sides for id_ in one["test"].ids_N.tolist()) == list(range(1, 41))
    assert all(not set(one["test"].ids_N) & set(one["train"].ids_N) for one in sides)


def test_groups_of_rows_stay_together(tiny_model: Path, tmp_path: Path) -> None:
    content = recipe_of("text-regression", tmp_path, tiny_model, {"data.split": {"group_by": "writer"}})
    path = Path(content["data"]["train"])
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) | {"writer": f"writer {number % 7}"} for number, line in enumerate(lines)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    begun = CrossValidation.begin(content, num_folds=3)
    writer = {row["text"]: row["writer"] for row in rows}
    seen: list[set[str]] = []
    for number in (1, 2, 3):
        split = flow.prepare(resolve(begun.recipe_of(number))).splits["test"]
        seen.append({writer[text] for text in split.texts(np.arange(len(split)))})
    assert sum(map(len, seen)) == 7 == len(set.union(*seen))


def test_all_rows_together_are_scored_as_one_model_would_be(tiny_model: Path, tmp_path: Path) -> None:
    found = cross_validate(recipe_of("text-regression", tmp_path, tiny_model, {"training.max_steps": 10}), num_folds=2)
    said, true = [], []
    for run in found["runs"]:
        split = flow.prepare(resolve(Path(run["run"]) / "recipe.yaml")).splits["test"]
        said += [answer.label for answer in flow.predict(run["run"], split.texts(np.arange(len(split))))]
        true += split.targets.tolist()
    whole = found["out_of_fold"]["scores"]
    assert whole["mae"]["value"] == pytest.approx(np.abs(np.array(said) - true).mean(), rel=1e-5)
    assert whole["spearman"]["value"] == pytest.approx(stats.spearmanr(true, said)[0], abs=1e-3), "of ranks among all rows"


def test_merged_by_hand() -> None:
    one = Likelihoods(np.array([1, 2]), np.array([2.0, 4.0]), np.array([2, 2]), np.array([1, 1]))
    other = Likelihoods(np.array([1]), np.array([12.0]), np.array([5]), np.array([3]))
    both = as_one([one, other])
    assert both.ids_N.tolist() == [1, 2, 1 + ID_SPAN], "a number that two folds use is two rows"
    assert {key: score.value for key, score in both.scores(resamples=0).items()} == pytest.approx(
        {"loss": 18 / 9, "perplexity": np.exp(2), "token_accuracy": 5 / 9}
    )
    sums = [likelihood_sums(part.ids_N, part.nats_N, part.right_N, part.tokens_N) for part in (one, other)]
    assert as_one(sums).scores(resamples=0)["loss"].value == 2
    joined = as_one([Joined(one, None), Joined(other, sums[1])])
    assert len(joined) == 3 and len(joined.texts) == 1
    classes = [Answered(np.array([1, 2]), np.array([[0.9, 0.1], part]), np.array([0, 1]), ("a", "b")) for part in ([0.2, 0.8], [0.7, 0.3])]
    assert as_one(classes).scores(resamples=0)["accuracy"].value == 3 / 4
    with pytest.raises(ValueError, match="other numbers"):
        as_one([sums[0], sums[1].__class__(np.array([1]), np.ones((1, 2)), sums[1].formula)])


def test_tags_that_a_fold_never_saw_are_scored_with_the_others(tiny_model: Path, tmp_path: Path) -> None:
    recipe = recipe_of("token-classification", tmp_path, tiny_model)
    rows = Path(str(recipe["data"]["train"]))
    once = {"tokens": ["parcel", "zurich"], "tags": ["O", "B-CITY"]}
    rows.write_text(rows.read_text(encoding="utf-8") + json.dumps(once) + "\n", encoding="utf-8")
    found = cross_validate(recipe, num_folds=2)
    check(found, tasks.get("token-classification").primary_metric)
    known = [set(read_settings(Path(run["run"]) / "model")["labels"]) for run in found["runs"]]
    assert sorted("B-CITY" in labels for labels in known) == [False, True] and found["out_of_fold"]["rows"] == found["rows"]


def test_folds_with_other_labels_have_no_score_together(tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = []
    for number, classes in enumerate((("delivery", "login"), ("delivery", "payment"))):
        rows = tiny.write_rows(tmp_path / f"{number}.csv", tiny.tiny_rows(40, classes=classes))
        folders.append(flow.train(tiny.tiny_recipe(tiny_model, rows, tmp_path / str(number), {**QUICK, "data.split": {"test": 0.5}})).path)
    with caplog.at_level("WARNING", logger="luthier"):
        assert out_of_fold_scores(folders) is None
    assert "the folds differ in their labels" in caplog.text
