"""A finished run is tuned further: the same task with new labels, or another one; old rows, old weights, and what was forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.models.blocks import body_of
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.update.joining import with_labels_decided, with_old_labels
from luthier.stages.update.keeping import widened
from luthier.stages.update.old_run import OldRowsGone, OldRun
from luthier.training.step_rules.accumulate import Accumulate

MakeRecipe = Callable[..., dict[str, Any]]
OTHER = {"delivery": "north", "payment": "south", "login": "east"}
QUICK = {"training.max_steps": 8, "training.save_every": "2steps", "evaluate.baseline": False}
KEPT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "replay": {"keep.replay": 0.4},
    "ewc": {"keep.ewc": 100.0, "keep.fisher_rows": 20},
    "mask": {"keep.fisher_mask": {"share": 0.3}, "keep.fisher_rows": 20},
    "mask by the new rows": {"keep.fisher_mask": {"share": 0.3, "which": "largest", "rows": "new"}, "keep.fisher_rows": 20},
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A finished run on two of the three classes."""
    folder = tmp_path_factory.mktemp("old")
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(80, seed=3, classes=("delivery", "payment")))
    return flow.train(tiny.tiny_recipe(tiny_model, rows, folder / "run", {"training.max_steps": 30, "evaluate.baseline": False})).path


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New rows of one old class and a new one."""
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "grown.csv", tiny.tiny_rows(60, seed=5, classes=("payment", "login")))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of another task: other texts, other labels."""
    rows = [(text, OTHER[label]) for text, label in tiny.tiny_rows(60, seed=6)]
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "other.csv", rows)


def bench_of(recipe: dict[str, Any]) -> Bench:
    """What a training of a recipe lays out."""
    told = with_old_labels(resolve(recipe))
    decided = with_labels_decided(told, flow.prepare(told))
    return lay_out(decided, flow.prepare(decided))


def head_of(model: Any) -> dict[str, torch.Tensor]:
    inside = {id(parameter) for parameter in body_of(model).parameters()}
    return {name: parameter.detach() for name, parameter in model.named_parameters() if id(parameter) not in inside}


# ---- the same task


def test_a_head_grows_and_old_labels_keep_their_weights(old: Path, grown: Path, recipe: MakeRecipe) -> None:
    bench = bench_of(recipe("run", {"keep.run": str(old)}, rows=grown))
    assert bench.work.labels == ("delivery", "payment", "login"), "labels that the new rows do not have are kept"
    now, before = head_of(bench.parts["model"].module), load_file(old / "model" / "model.safetensors")
    assert len(now["classifier.weight"]) == 3 and now["classifier.weight"].abs().sum() > 0
    for name, parameter in now.items():
        assert torch.equal(parameter[:2], before[name]) and not parameter[2:].any()


def test_the_same_labels_go_on_where_they_were(old: Path, tmp_path: Path, recipe: MakeRecipe) -> None:
    rows = tiny.write_rows(tmp_path / "more.csv", tiny.tiny_rows(40, seed=9, classes=("payment", "delivery")))
    run = flow.train(recipe("run", {"keep.run": str(old), "training.max_steps": 1, "optim.learning_rate": 1e-9}, rows=rows))
    found = files.read_json(run.metrics)["forgetting"]
    assert found["before"]["ece"] == pytest.approx(found["after"]["ece"], abs=1e-5) and found["comparison"]["difference"] == 0
    assert found["comparison"]["base"] == files.read_json(old / "metrics.json")["scores"]["test"]["accuracy"]["value"] > 0.8


def test_one_new_label_alone_will_do(old: Path, tmp_path: Path, recipe: MakeRecipe) -> None:
    rows = tiny.write_rows(tmp_path / "one.csv", tiny.tiny_rows(30, seed=9, classes=("login",)))
    changes = {"keep": {"run": str(old), "labels": "join", "replay": 0.5}, "training.max_steps": 2, "evaluate.baseline": False}
    run = flow.train(recipe("run", changes, rows=rows))
    assert files.read_json(run.model / "luthier.json")["labels"] == ["delivery", "payment", "login"]
    scored = flow.evaluate(run.path)["scores"]["test"]["accuracy"]["value"]
    assert scored == files.read_json(run.metrics)["scores"]["test"]["accuracy"]["value"], "evaluate knows the labels too"


def test_several_labels_a_row_are_widened() -> None:
    assert widened(np.array([1, 0], np.int8), 4).tolist() == [1, 0, 0, 0]
    assert widened(np.array([[1, 0], [0, 1]]), 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert int(widened(np.asarray(np.int64(2)), 9)) == 2, "a class number stays what it is"


def test_rows_of_several_labels_go_on(tiny_model: Path, tmp_path: Path, recipe: MakeRecipe) -> None:
    several = tiny.tiny_multi_label_rows(80)
    two = [(text, labels) for text, labels in several if "login" not in labels]
    common = {"data.label_separator": "|", "training.max_steps": 4, "evaluate.baseline": False}
    before = flow.train(recipe("before", common, rows=tiny.write_rows(tmp_path / "two.csv", two))).path
    changes = common | {"keep": {"run": str(before), "replay": 0.5, "ewc": 1.0, "fisher_rows": 5}}
    run = flow.train(recipe("after", changes, rows=tiny.write_rows(tmp_path / "three.csv", several)))
    found = files.read_json(run.metrics)["forgetting"]
    assert found["labels"] == "join" and len(files.read_json(run.model / "luthier.json")["labels"]) == 3
    assert found["comparison"]["base"] == files.read_json(before / "metrics.json")["scores"]["test"]["accuracy"]["value"]


# ---- another task


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_a_resumed_run_is_the_uninterrupted_one(kept: dict[str, Any], old: Path, other: Path, recipe: MakeRecipe) -> None:
    def made(name: str) -> dict[str, Any]:
        return recipe(name, QUICK | {"keep.run": str(old)} | kept, rows=other)

    whole = flow.train(made("whole"))
    training = flow.Training.begin(made("run"))
    for tick in (ticks := iter(training)):
        if tick.step == 5:
            break
    ticks.close()  # type: ignore[attr-defined]
    run = flow.resume(training.run.path)
    hashes = [files.sha256_file(one.model / "model.safetensors") for one in (whole, run)]
    assert hashes[0] == hashes[1]
    found = [files.read_json(one.metrics)["forgetting"] for one in (whole, run)]
    assert found[0] == found[1] and found[0]["labels"] == "apart"
    assert found[0]["comparison"]["base"] == files.read_json(old / "metrics.json")["scores"]["test"]["accuracy"]["value"]
    losses = [line.get("losses", {}) for line in files.read_json_lines(run.events) if "loss" in line]
    assert all(("replay" in told) == ("keep.replay" in kept) for told in losses) and len(losses) == 8
    assert all(found[0]["comparison"][key] is not None for key in ("low", "high", "difference", "tuned"))


def test_the_old_head_answers_as_before_until_the_trunk_moves(old: Path, other: Path, recipe: MakeRecipe) -> None:
    bench = bench_of(recipe("run", {"keep": {"run": str(old), "replay": 0.5}}, rows=other))
    keeping = bench.keeping
    assert keeping is not None and keeping.head is not None and bench.work.labels == ("east", "north", "south")
    module: Any = keeping.head["model"].module
    assert body_of(module) is body_of(bench.parts["model"].module), "one trunk, two heads"
    assert body_of(module).training and not any(p.requires_grad for p in head_of(module).values())
    batch = next(batch for batch in next(iter(bench.saved.source)) if any(name.startswith("old ") for name in batch.inputs))
    terms = bench.losses.losses(bench.parts, batch)
    terms["replay"].sum.backward()
    trunk, own = body_of(module), head_of(bench.parts["model"].module)
    assert any(p.grad is not None and p.grad.any() for p in trunk.parameters()), "old rows teach the trunk"
    assert all(dict(bench.parts["model"].module.named_parameters())[name].grad is None for name in own), "and not the new head"


def test_old_rows_weigh_the_same_however_a_step_is_cut(old: Path, other: Path, recipe: MakeRecipe) -> None:
    found = []
    for size, pieces in ((8, 1), (4, 2), (2, 4)):
        cut = {"training.batch_size": size, "training.gradient_accumulation_steps": pieces, "training.group_by_length": False}
        bench = bench_of(recipe("run", cut | {"keep": {"run": str(old), "replay": {"share": 0.5, "weight": 2.0}}}, rows=other))
        module = bench.parts["model"].module.eval()
        means = Accumulate().gradient(bench.losses, bench.parts, next(iter(bench.saved.source)), nullcontext())
        found.append((means, torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])))
    means, gradient = found[0]
    assert means["replay"] > 0 and means["total"] == pytest.approx(means["loss"] + means["replay"])
    for other_means, other_gradient in found[1:]:
        assert other_means == pytest.approx(means, rel=1e-5)
        assert float((gradient - other_gradient).norm()) <= 2e-6 * float(gradient.norm())


def test_a_head_of_another_task_with_as_many_labels_begins_anew(old: Path, tmp_path: Path, recipe: MakeRecipe) -> None:
    rows = [(text, OTHER[label]) for text, label in tiny.tiny_rows(40, classes=("delivery", "payment"))]
    bench = bench_of(recipe("run", {"keep.run": str(old)}, rows=tiny.write_rows(tmp_path / "two.csv", rows)))
    assert not head_of(bench.parts["model"].module)["classifier.weight"].any() and "classifier.weight" in bench.new


def test_endless_ewc_moves_only_what_the_old_rows_do_not_need(old: Path, other: Path, recipe: MakeRecipe) -> None:
    changes = QUICK | {"keep": {"run": str(old), "ewc": 1e30, "fisher_rows": 10}}
    run = flow.train(recipe("run", changes, rows=other))
    fisher = load_file(old / "fisher" / "10-rows" / "fisher.safetensors")
    before, after = (load_file(path / "model" / "model.safetensors") for path in (old, run.path))
    moved = {name: before[name] != after[name] for name in before if name.startswith("bert.")}
    assert not any((moved[name] & (fisher[name] > 1e-12)).any() for name in moved)
    assert sum(int((fisher[name] > 1e-12).sum()) for name in moved) > 1000


@pytest.mark.parametrize("rows", ["old", "new"])
def test_a_mask_trains_the_share_that_was_asked_for(rows: str, old: Path, other: Path, recipe: MakeRecipe) -> None:
    mask = {"share": 0.25, "which": "largest", "rows": rows}
    run = flow.train(recipe("run", QUICK | {"keep": {"run": str(old), "fisher_mask": mask, "fisher_rows": 10}}, rows=other))
    fisher = load_file((old / "fisher" / "10-rows" if rows == "old" else run.path / "fisher") / "fisher.safetensors")
    before, after = (load_file(path / "model" / "model.safetensors") for path in (old, run.path))
    names = [name for name in before if name.startswith("bert.")]
    moved = torch.cat([(before[name] != after[name]).flatten() for name in names])
    information = torch.cat([fisher[name].flatten() for name in names])
    assert 0.2 < float(moved.sum()) / float((information > 0).sum()) <= 0.2501
    assert information[moved].min() >= information[~moved].max()


def test_what_was_forgotten_is_on_every_page(old: Path, other: Path, recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", QUICK | {"keep.run": str(old)}, rows=other))
    found = files.read_json(run.metrics)["forgetting"]
    assert found["rows"] == 20 and found["split"] == "test" and found["kept_by"] == []
    assert found["comparison"]["tuned"] == found["after"]["accuracy"]["value"]
    for page in (run.card, run.report):
        text = page.read_text(encoding="utf-8")
        assert "What was kept" in text and "right before" in text and "Nothing was done to keep them" in text


def test_the_old_head_can_be_had_on_the_new_trunk(old: Path, tmp_path: Path, recipe: MakeRecipe) -> None:
    rows = [(f"{text} \u03a9\u03b4", OTHER[label]) for text, label in tiny.tiny_rows(60, seed=6)]  # characters that are added
    made = recipe("run", QUICK | {"keep": {"run": str(old), "old_model": True}}, rows=tiny.write_rows(tmp_path / "greek.csv", rows))
    run = flow.train(made)
    found = files.read_json(run.metrics)["forgetting"]["after"]
    predictor = Predictor.open(run.path / "old-model")
    split = flow.prepare(resolve(old / "recipe.yaml")).splits["test"]
    answers = list(predictor.answer(split.texts(np.arange(len(split)))))
    truth = [("delivery", "payment")[number] for number in split.targets]
    right = [answer.label == label for answer, label in zip(answers, truth, strict=True)]
    assert sum(right) / len(right) == pytest.approx(found["accuracy"]["value"])
    trunks = [load_file(run.path / name / "model.safetensors") for name in ("model", "old-model")]
    assert all(torch.equal(trunks[0][name], trunks[1][name]) for name in trunks[0] if name.startswith("bert."))
    assert torch.equal(trunks[1]["classifier.weight"], load_file(old / "model" / "model.safetensors")["classifier.weight"])


# ---- texts that are written


def test_a_run_that_writes_goes_on(tmp_path: Path) -> None:
    decoder = make_tiny_decoder(tmp_path / "decoder")
    rows = [write_instructions(tmp_path / f"{seed}.jsonl", tiny_instructions(80, seed=seed)) for seed in (1, 2)]
    common = {"training.max_steps": 30, "evaluate.baseline": False, "task": {"type": "text-generation", "samples": 0}}
    before = flow.train(writing_recipe(decoder, rows[0], tmp_path / "before", common | {"data.split": {"test": 0.2}})).path
    keep = {"run": str(before), "replay": 0.5, "ewc": 10.0, "fisher_mask": 0.5, "fisher_rows": 8}
    run = flow.train(writing_recipe(decoder, rows[1], tmp_path / "after", common | {"keep": keep, "training.max_steps": 6}))
    found = files.read_json(run.metrics)["forgetting"]
    assert found["comparison"]["metric"] == "loss" and len(found["kept_by"]) == 3
    stored = files.read_json(before / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert found["comparison"]["base"] == found["before"]["loss"]["value"] == pytest.approx(stored, rel=1e-6)
    assert found["after"]["loss"]["value"] != stored and "a loss of" in run.card.read_text(encoding="utf-8")
    ticks = [line for line in files.read_json_lines(run.events) if "loss" in line]
    assert len(ticks) == 6 and all(tick["losses"]["replay"] > 0 for tick in ticks)


# ---- what cannot be


def test_a_run_without_rows_is_tuned_but_not_replayed(
    old: Path, other: Path, recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = shutil.copytree(old, tmp_path / "gone")
    text = (gone / "recipe.yaml").read_text(encoding="utf-8")
    (gone / "recipe.yaml").write_text(text.replace("rows.csv", "deleted.csv"), encoding="utf-8")
    with pytest.raises(OldRowsGone, match=r"deleted\.csv") as caught:
        flow.train(recipe("replayed", QUICK | {"keep": {"run": str(gone), "replay": 0.2}}, rows=other))
    assert "training.l2_sp=1" in str(caught.value)
    run = flow.train(recipe("plain", QUICK | {"keep": {"run": str(gone)}, "training.l2_sp": 1.0}, rows=other))
    assert "forgetting" not in files.read_json(run.metrics) and "what is forgotten is not measured" in caplog.text


def test_rows_that_changed_are_not_the_old_ones(old: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(old, tmp_path / "changed")
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(40, seed=11, classes=("delivery", "payment")))
    text = (changed / "recipe.yaml").read_text(encoding="utf-8")
    (changed / "recipe.yaml").write_text(text.replace(str(old.parent / "rows.csv"), str(rows)), encoding="utf-8")
    with pytest.raises(OldRowsGone, match="their files have changed"):
        _ = OldRun.of(resolve({"keep": str(changed)})).prepared


def test_what_is_no_finished_run_is_refused(old: Path, tmp_path: Path, recipe: MakeRecipe) -> None:
    half = shutil.copytree(old, tmp_path / "half", ignore=shutil.ignore_patterns("model"))
    writes = shutil.copytree(old, tmp_path / "writes")
    files.write_json(writes / "model" / "luthier.json", {"task": "text-generation"})
    adapted = shutil.copytree(old, tmp_path / "adapted")
    settings = files.read_json(adapted / "model" / "luthier.json")
    files.write_json(adapted / "model" / "luthier.json", settings | {"adapter": {"type": "lora"}})
    said = {
        tmp_path / "none": "no run folder",
        old / "model": "it has no recipe.yaml",
        half: "half written: it has no model/",
        writes: "is of text-generation",
        adapted: "luthier merge",
    }
    for place, words in said.items():
        with pytest.raises(ConfigError, match=words):
            flow.train(recipe("run", {"keep.run": str(place)}))
        assert not (tmp_path / "run").exists(), "nothing is begun"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": "lora"}, "adapter: an adapter leaves the old weights as they are"),
        ({"keep.replay": 0.2, "training.step_rule": "fgm"}, "keep.replay: training.step_rule=fgm moves the words"),
        ({"training.parallel": "fsdp2"}, "keep.run: needs every weight in each process"),
        ({"keep.labels": "join", "keep.old_model": True}, "keep.old_model: the old labels are in the head"),
        ({"model.layers": 1}, "model.layers: the old head and the old weights belong to all layers"),
        ({"optim": "schedule-free", "keep.ewc": 1.0}, "keep.ewc: the average of schedule-free"),
        ({"optim": "schedule-free", "keep.fisher_mask": 0.1}, "keep.fisher_mask: the average of schedule-free"),
        ({"keep.replay": 1.0}, "keep.replay"),
        ({"keep.ewc": -1}, "keep.ewc"),
        ({"keep.replai": 0.5}, "keep.replai: unknown key"),
    ],
)
def test_what_does_not_go_together_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, {"keep": "runs/old", **changes})
    assert said in str(caught.value)
