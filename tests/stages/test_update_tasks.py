"""Runs of other tasks than classification are tuned further; and runs that were tuned further before, with all that they came from."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_seq2seq
import torch
from row_tasks import intent_and_slots, relation_extraction, sentence_similarity, text_regression, token_classification
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.explain.forgotten import forgetting_sentence, forgetting_table
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.update.fisher import fisher_of
from luthier.stages.update.joining import with_labels_decided, with_old_labels
from luthier.stages.update.old_run import OldRun
from luthier.training.retention.fisher import added, relative
from luthier.training.retention.replay import learnt_of

MakeRecipe = Callable[..., dict[str, Any]]
SHORT = {"evaluate.baseline": False, "training.max_steps": 3}


def bench_of(recipe: dict[str, Any]) -> Bench:
    """What a training of a recipe lays out."""
    told = with_old_labels(resolve(recipe))
    decided = with_labels_decided(told, flow.prepare(told))
    return lay_out(decided, flow.prepare(decided))


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- what the old rows decided


def test_numbers_stay_on_the_old_scale(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = text_regression.write(tmp_path)
    old = flow.train(recipe("old", SHORT | {"task": "text-regression"}, rows=rows)).path
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    larger = write_json_lines(tmp_path / "larger.jsonl", [{**line, "score": 10 * line["score"] + 3} for line in lines])
    changes = SHORT | {"task": "text-regression", "optim.learning_rate": 1e-12, "keep.run": str(old)}
    run = flow.train(recipe("run", changes, rows=larger))
    settings = [files.read_json(one / "model" / "luthier.json") for one in (old, run.path)]
    assert settings[0]["middle"] == settings[1]["middle"] and settings[0]["spread"] == settings[1]["spread"]
    found = files.read_json(run.metrics)["forgetting"]
    assert found["after"]["rmse"]["value"] == pytest.approx(found["before"]["rmse"]["value"], rel=1e-4)


def test_tags_that_the_new_rows_lack_stay(recipe: MakeRecipe, tmp_path: Path) -> None:
    everything = token_classification.tiny_rows(60)
    rows = [write_json_lines(tmp_path / "all.jsonl", everything)]
    few = [row for row in everything if not any(tag.endswith("PAY") for tag in row["tags"])]
    rows.append(write_json_lines(tmp_path / "few.jsonl", few))
    old = flow.train(recipe("old", SHORT | {"task": "token-classification"}, rows=rows[0])).path
    run = flow.train(recipe("run", SHORT | {"task": "token-classification", "keep": {"run": str(old), "replay": 0.5}}, rows=rows[1]))
    labels = [files.read_json(one / "model" / "luthier.json")["labels"] for one in (old, run.path)]
    assert labels[0] == labels[1] and any(label.endswith("PAY") for label in labels[1]) and len(few) > 5


@pytest.mark.parametrize(
    ("task", "module", "new"),
    [
        ("relation-extraction", relation_extraction, "Other"),
        ("intent-and-slots", intent_and_slots, "intent: ask"),
        ("ordinal-classification", None, "4"),
    ],
)
def test_new_labels_are_refused_where_the_head_does_not_grow(task: str, module: Any, new: str, recipe: MakeRecipe, tmp_path: Path) -> None:
    if module is None:
        stars = tiny.tiny_star_rows(60)
        rows = tiny.write_rows(tmp_path / "stars.csv", stars)
        less = tiny.write_rows(tmp_path / "less.csv", [row for row in stars if row[1] != "4"])
    else:
        rows = module.write(tmp_path)
        lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
        known = new.removeprefix("intent: ")
        less = write_json_lines(
            tmp_path / "less.jsonl", [line for line in lines if known not in (line.get("relation"), line.get("intent"))]
        )
    old = flow.train(recipe("old", SHORT | {"task": task}, rows=less)).path
    with pytest.raises(ConfigError) as caught:
        flow.train(recipe("run", SHORT | {"task": task, "keep.run": str(old)}, rows=rows))
    assert f"does not know ({new})" in str(caught.value) and f"model.path={old / 'model'}" in str(caught.value)


def test_fisher_of_rows_that_meet_in_the_loss_is_of_several_together(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = write_json_lines(tmp_path / "pairs.jsonl", sentence_similarity.related_rows(60))
    old = flow.train(recipe("old", SHORT | {"task": "sentence-similarity"}, rows=rows)).path
    told = OldRun.of(resolve(recipe("run", {"task": "sentence-similarity", "keep.run": str(old)}, rows=rows)))
    assert sum(float(values.sum()) for values in fisher_of(told, 20, "cpu").values()) > 0


@pytest.mark.parametrize("labels", ["join", "apart"])
def test_stars_go_on(labels: str, recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [tiny.write_rows(tmp_path / f"{seed}.csv", tiny.tiny_star_rows(80, seed=seed)) for seed in (1, 2)]
    old = flow.train(recipe("old", SHORT | {"task": "ordinal-classification", "training.max_steps": 20}, rows=rows[0])).path
    keep = {"run": str(old), "labels": labels, "replay": 0.5, "ewc": 10.0, "fisher_rows": 10}
    run = flow.train(recipe("run", SHORT | {"task": "ordinal-classification", "keep": keep}, rows=rows[1]))
    found, before = files.read_json(run.metrics)["forgetting"], files.read_json(old / "metrics.json")["scores"]["test"]
    assert found["labels"] == labels and found["before"]["qwk"]["value"] == pytest.approx(before["qwk"]["value"], abs=1e-6)
    ticks = [line["losses"] for line in files.read_json_lines(run.events) if "losses" in line]
    assert max(losses["replay"] for losses in ticks) > 0


def test_an_encoder_decoder_goes_on(tmp_path: Path) -> None:
    model = tiny_seq2seq.make_tiny_seq2seq(tmp_path / "t5")
    rows = [tiny_seq2seq.write_pairs(tmp_path / f"{seed}.jsonl", tiny_seq2seq.tiny_pairs(60, seed=seed)) for seed in (1, 2)]
    common = {"training.max_steps": 10, "evaluate.baseline": False, "data.split": {"test": 0.2}}
    old = flow.train(tiny_seq2seq.pairs_recipe(model, rows[0], tmp_path / "old", common)).path
    keep = {"run": str(old), "replay": 0.5, "ewc": 10.0, "fisher_mask": 0.5, "fisher_rows": 8}
    changes = common | {"keep": keep, "training.l2_sp": 1.0, "training.max_steps": 4}
    run = flow.train(tiny_seq2seq.pairs_recipe(model, rows[1], tmp_path / "run", changes))
    found = files.read_json(run.metrics)["forgetting"]
    stored = files.read_json(old / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert found["comparison"]["metric"] == "loss" and len(found["kept_by"]) == 4
    assert found["before"]["loss"]["value"] == pytest.approx(stored, rel=1e-6) and found["after"]["loss"]["value"] != stored
    assert all(line["losses"]["replay"] > 0 for line in files.read_json_lines(run.events) if "losses" in line)


def test_resumed_in_the_middle_it_is_the_same(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = intent_and_slots.write(tmp_path)
    old = flow.train(recipe("old", SHORT | {"task": "intent-and-slots"}, rows=rows)).path
    keep = {"run": str(old), "replay": 0.5, "ewc": 10.0, "fisher_rows": 8}
    changes = SHORT | {"task": "intent-and-slots", "keep": keep, "training.max_steps": 6, "training.save_every": "2steps"}
    whole = flow.train(recipe("whole", changes, rows=rows))
    training = flow.Training.begin(recipe("run", changes, rows=rows))
    for tick in (ticks := iter(training)):
        if tick.step == 3:
            break
    ticks.close()  # type: ignore[attr-defined]
    run = flow.resume(training.run.path)
    assert files.sha256_file(whole.model / "model.safetensors") == files.sha256_file(run.model / "model.safetensors")
    told = [line["losses"] for line in files.read_json_lines(run.events) if "losses" in line]
    assert len(told) == 6 and all({"replay intent", "replay slots"} <= set(losses) for losses in told)


# ---- a run of a run


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[Path]:
    """Three finished runs, each tuned from the one before: 2 labels, 3 labels, the same 3."""
    folder, found = tmp_path_factory.mktemp("chain"), list[Path]()
    classes = (("delivery", "payment"), ("payment", "login"), ("delivery", "login"))
    for number, some in enumerate(classes):
        rows = tiny.write_rows(folder / f"{number}.csv", tiny.tiny_rows(40 + 20 * number, seed=number, classes=some))
        keep = {"keep": {"run": str(found[-1]), "replay": 0.5, "ewc": 10.0, "fisher_rows": 10}} if found else {}
        changes = {"evaluate.baseline": False, "training.max_steps": 6, **keep}
        found.append(flow.train(tiny.tiny_recipe(tiny_model, rows, folder / f"run-{number}", changes)).path)
    return found


def test_a_run_knows_what_it_came_from(chain: list[Path], recipe: MakeRecipe) -> None:
    old = OldRun.of(resolve(recipe("run", {"keep.run": str(chain[2])})))
    assert [run.run.path for run in old.earlier] == [chain[1], chain[0]]


def test_rows_of_all_runs_are_replayed(chain: list[Path], recipe: MakeRecipe) -> None:
    bench = bench_of(recipe("run", {"keep": {"run": str(chain[2]), "replay": 0.5}}))
    assert bench.keeping is not None and bench.keeping.rows is not None
    splits = [run.prepared.splits["train"] for run in (bench.keeping.old, *bench.keeping.old.earlier)]
    rows = bench.keeping.rows
    assert rows.num_rows == sum(len(split) for split in splits) and len(splits) == 3
    edges = np.cumsum([len(split) for split in splits])
    for place, (which, inside) in {0: (0, 0), edges[0]: (1, 0), edges[1]: (2, 0), edges[2] - 1: (2, len(splits[2]) - 1)}.items():
        batch, wanted = rows.collate(np.array([place])), splits[which].row(inside)
        assert batch.ids == [wanted.id] and batch.inputs["input_ids"][0].tolist() == wanted.windows[0].tolist()
        assert int(batch.targets["labels"][0]) == int(np.asarray(wanted.target)), "labels of a head stay where they are"


def test_information_of_all_runs_is_added(chain: list[Path], recipe: MakeRecipe) -> None:
    keep = {"run": str(chain[2]), "ewc": 10.0, "fisher_rows": 10}
    bench = bench_of(recipe("run", {"keep": keep}))
    assert bench.keeping is not None and bench.keeping.fisher is not None
    files_of = [path / "fisher" / "10-rows" / "fisher.safetensors" for path in chain]
    assert all(file.is_file() for file in files_of), "kept in each run's own folder"
    latest, second, first = (relative(load_file(file)) for file in reversed(files_of))
    by_hand = relative(added(added(latest, second), first))
    assert all(torch.allclose(bench.keeping.fisher[name], by_hand[name]) for name in by_hand)
    weight = "classifier.weight"
    assert len(first[weight]) == 2 and len(latest[weight]) == 3
    assert torch.equal(added(latest, first)[weight][2], latest[weight][2]) and (added(latest, first)[weight][:2] > latest[weight][:2]).any()


def test_what_was_forgotten_of_each_is_told(chain: list[Path]) -> None:
    found = files.read_json(chain[2] / "metrics.json")["forgetting"]
    assert found["run"] == str(chain[1]) and [one["run"] for one in found["earlier"]] == [str(chain[0])]
    assert found["earlier"][0]["rows"] == len(OldRun.of(resolve(None, {"keep": str(chain[1])})).earlier[0].prepared.splits["test"])
    said = forgetting_sentence(found)
    assert str(chain[0]) in said and str(chain[1]) in said and said.count("Kept by") == 1
    assert "earlier" not in files.read_json(chain[1] / "metrics.json")["forgetting"]


def test_a_link_that_is_gone_is_said(chain: list[Path], recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone = shutil.copytree(chain[2], tmp_path / "alone")
    text = (alone / "recipe.yaml").read_text(encoding="utf-8")
    (alone / "recipe.yaml").write_text(text.replace(f"run: {chain[1]}", f"run: {tmp_path / 'gone'}"), encoding="utf-8")
    with caplog.at_level(logging.WARNING, "luthier"):
        assert OldRun.of(resolve(recipe("run", {"keep.run": str(alone)}))).earlier == ()
    assert "is left out: no run folder at" in caplog.text


# ---- small things


def test_terms_that_are_learnt_again() -> None:
    assert learnt_of({"loss": 1, "r_drop": 2}) == ("loss",) and learnt_of(["intent", "slots"]) == ("intent", "slots")


def test_scores_of_other_tasks_are_told_in_their_own_words() -> None:
    comparison = {"metric": "spearman", "base": 0.81, "tuned": 0.7, "difference": -0.11, "low": -0.2, "high": -0.02, "verdict": "worse"}
    score = {"value": 0.81, "low": 0.7, "high": 0.9}
    found = {"rows": 20, "split": "test", "run": "runs/a", "kept_by": [], "comparison": comparison}
    said = forgetting_sentence(found)
    assert "Spearman 0.810 before, 0.700 after" in said and "−0.110 (from −0.200 to −0.020) is a real loss" in said
    assert forgetting_table(found | {"before": {"spearman": score}, "after": {"spearman": score}})[0][0] == "Spearman"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "token-classification", "keep.labels": "apart"}, "goes on with the head that it has"),
        ({"task": "fill-mask", "keep.old_model": True}, "keep.old_model: fill-mask goes on with the head"),
        ({"task": "sentence-similarity", "keep.replay": 0.2, "training.step_rule": "grad-cache"}, "vectors of the new rows alone"),
    ],
)
def test_what_does_not_go_together_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(None, {"keep.run": "runs/old", **changes})
