"""A student learns from a teacher: from its answers, its states and its relations; the teacher is no part of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import checkpoint_weights, steps_of, train_until, weights_hash
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from luthier import flow
from luthier.core import files
from luthier.core.errors import UserError
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.distillation.answers import TOLD
from luthier.stages.distillation.distilled import PROJECTION
from luthier.stages.distillation.teaching import layer_pairs, with_answers
from luthier.stages.layout.begin import Bench, lay_out
from luthier.training.inference import measuring
from luthier.training.step_rules import step_rules

MakeRecipe = Callable[..., dict[str, Any]]
EVERY_2 = {"training.max_steps": 8, "training.save_every": "2steps", "evaluate.baseline": False}
CASES: dict[str, dict[str, Any]] = {
    "answers": {},
    "answers asked at every step": {"cache": False},
    "answers alone": {"weight": 1.0, "temperature": 4.0},
    "states": {"weight": 0.0, "hidden": 1.0},
    "states by cosine": {"hidden": 1.0, "hidden_loss": "cosine", "layers": "last"},
    "relations": {"attention": 1.0},
    "all": {"hidden": 0.5, "attention": 0.5, "layers": {0: 1}},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_csv: Path) -> Path:
    """A finished run of another width than the student."""
    folder = tmp_path_factory.mktemp("teacher")
    model = tiny.make_tiny_model(folder / "wide", width=48, seed=3)
    return flow.train(tiny.tiny_recipe(model, tiny_csv, folder / "run", {"training.max_steps": 30, "evaluate.baseline": False})).path


def distil(teacher: Path, **settings: Any) -> dict[str, Any]:
    return {"distill": {"teacher": str(teacher), **settings}}


def laid(data: dict[str, Any]) -> Bench:
    resolved = resolve(data)
    return with_answers(lay_out(resolved, flow.prepare(resolved)))[0]


def gradient(bench: Bench) -> tuple[dict[str, float], Tensor]:
    """Means and gradient of the first step."""
    means = step_rules.get("accumulate")().gradient(bench.losses, bench.parts, next(iter(bench.saved.source)), nullcontext())
    parameters = [p for part in bench.parts.values() for p in part.module.parameters()]
    return means, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_resumed_run_is_the_uninterrupted_one(settings: dict[str, Any], teacher: Path, recipe: MakeRecipe) -> None:
    changes = EVERY_2 | distil(teacher, **settings)
    whole = flow.train(recipe("whole", changes)).path
    run = train_until(recipe("run", changes), 5)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    assert weights_hash(run) != weights_hash(flow.train(recipe("plain", EVERY_2)).path), "it changes what is learnt"


def test_the_teacher_is_in_no_checkpoint_and_not_in_the_model(teacher: Path, recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", EVERY_2 | {"model.layers": 1} | distil(teacher, hidden=1.0))).path
    names = {file.name for file in (run / "checkpoints" / "step-00000008").glob("*.safetensors")}
    assert {"model.safetensors", f"{PROJECTION}.safetensors"} <= names and not any("teacher" in name for name in names)
    assert not any("to_teacher" in name for name in checkpoint_weights(run, 8))
    model = AutoModelForSequenceClassification.from_pretrained(run / "model")
    assert model.config.num_hidden_layers == 1 and not any("to_teacher" in name for name, _ in model.named_parameters())
    ours = Predictor.open(run).outputs(["my parcel is late", "refund the card"]).logits_BC
    predictor = Predictor.open(run)
    batch = predictor.work.collate(list(predictor.work.encode(["my parcel is late", "refund the card"])))
    with torch.no_grad():
        assert torch.allclose(model(**batch.inputs).logits, torch.from_numpy(ours), atol=1e-5)


def test_the_gradient_is_that_of_the_labels_and_of_the_divergence(teacher: Path, recipe: MakeRecipe, still_model: Path) -> None:
    settings = {"temperature": 3.0, "weight": 0.25}
    means, found = gradient(laid(recipe("run", distil(teacher, **settings), model=still_model)))
    bench = laid(recipe("run", model=still_model))
    batch = next(iter(bench.saved.source))[0]
    theirs = Predictor.open(teacher)
    with measuring(theirs.parts):
        told = torch.from_numpy(theirs.work.outputs(theirs.parts, batch).logits_BC).clone()
    logits = bench.parts["model"].module(**batch.inputs).logits
    own = functional.cross_entropy(logits, batch.targets["labels"])
    soft = functional.kl_div((logits / 3).log_softmax(-1), (told / 3).softmax(-1), reduction="batchmean") * 9
    (0.75 * own + 0.25 * soft).backward()
    by_hand = torch.cat([p.grad.flatten() for p in bench.parts["model"].module.parameters() if p.grad is not None])
    assert means["soft"] == pytest.approx(0.25 * float(soft.detach()), rel=1e-4)
    assert means["total"] == pytest.approx(0.75 * float(own.detach()) + 0.25 * float(soft.detach()), rel=1e-4)
    assert float((found - by_hand).norm()) <= 1e-5 * float(by_hand.norm())


def test_answers_that_are_kept_are_those_that_are_asked_for(
    teacher: Path, recipe: MakeRecipe, still_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = laid(recipe("run", distil(teacher), model=still_model))
    asked = laid(recipe("run", distil(teacher, cache=False), model=still_model))
    assert kept.teaching is not None and kept.teaching.teacher is None and kept.teaching.answers is not None
    assert asked.teaching is not None and asked.teaching.teacher is not None and asked.teaching.answers is None
    for (one,), (other,) in zip([next(iter(kept.saved.source))], [next(iter(asked.saved.source))], strict=True):
        assert one.ids == other.ids and TOLD not in other.targets
        assert torch.allclose(one.targets[TOLD], asked.teaching.teacher.logits(other), atol=1e-5)
    (means, one), (other_means, other) = gradient(kept), gradient(asked)
    assert means == pytest.approx(other_means, rel=1e-5) and float((one - other).norm()) <= 1e-5 * float(one.norm())
    with caplog.at_level(logging.INFO, "luthier"):
        laid(recipe("run", distil(teacher), model=still_model))
    assert "reused" in caplog.text


def test_the_labels_of_the_teacher_may_have_another_order(teacher: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    told = []
    for name, labels in [("as it is", None), ("turned", (2, 0, 1))]:
        folder = tmp_path / name
        files.make_folder(folder, lambda aside: [(aside / f.name).write_bytes(f.read_bytes()) for f in (teacher / "model").iterdir()])
        if labels is not None:
            settings = files.read_json(folder / "luthier.json")
            files.write_json(folder / "luthier.json", {**settings, "labels": [settings["labels"][place] for place in labels]})
        bench = laid(recipe("run", distil(folder)))
        told.append(next(iter(bench.saved.source))[0].targets[TOLD])
    assert torch.allclose(told[0], told[1][:, [2, 0, 1]], atol=1e-6) and not torch.allclose(told[0], told[1], atol=1e-3)


def test_answers_can_come_from_a_file(teacher: Path, recipe: MakeRecipe, tiny_csv: Path, tmp_path: Path, still_model: Path) -> None:
    path = answers_file(teacher, tiny_csv, tmp_path / "answers.jsonl")
    asked = gradient(laid(recipe("run", distil(teacher), model=still_model)))
    read = gradient(laid(recipe("run", {"distill": {"logits": str(path)}}, model=still_model)))
    assert read[0] == pytest.approx(asked[0], rel=1e-3) and float((read[1] - asked[1]).norm()) <= 1e-3 * float(asked[1].norm())


def answers_file(teacher: Path, rows: Path, path: Path) -> Path:
    """What `luthier predict TEACHER --data ROWS --out PATH` writes."""
    from luthier.data.sink import open_sink
    from luthier.stages.asking.predict import predict_rows, section_of

    with open_sink(path) as sink:
        predict_rows(Predictor.open(teacher), str(rows), section_of(teacher), sink)
    return path


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda lines: lines[:50], "has no answer for"),
        (lambda lines: [{**line, "text": "another"} for line in lines], "another text"),
        (lambda lines: [{**line, "probabilities": {"a": 1.0}} for line in lines], "has the labels a; the rows have delivery"),
        (lambda lines: [], "has no answer for 90 of 90"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    edit: Any, said: str, teacher: Path, recipe: MakeRecipe, tiny_csv: Path, tmp_path: Path
) -> None:
    path = answers_file(teacher, tiny_csv, tmp_path / "answers.jsonl")
    lines = edit(files.read_json_lines(path))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        flow.train(recipe("run", {"distill": {"logits": str(path)}}))


def test_relations_and_states_are_compared_with_lean_blocks_and_without(teacher: Path, recipe: MakeRecipe, still_model: Path) -> None:
    found = []
    for lean in (True, False):
        changes = distil(teacher, hidden=1.0, attention=1.0) | {"training.speed.lean_blocks": lean}
        found.append(gradient(laid(recipe("run", changes, model=still_model))))
    (means, one), (other_means, other) = found
    assert means["hidden"] > 0 and means["attention"] > 0 and means == pytest.approx(other_means, rel=1e-3)
    assert float((one - other).norm()) <= 1e-3 * float(one.norm())


def test_a_student_becomes_like_its_teacher(teacher: Path, recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", {**EVERY_2, "training.max_steps": 40} | distil(teacher, hidden=1.0, attention=1.0)))
    steps = [line for line in files.read_json_lines(run.events) if "losses" in line]
    for name in ("soft", "hidden", "attention"):
        first, last = (sum(step["losses"][name] for step in several) for several in (steps[:5], steps[-5:]))
        assert last < 0.9 * first, name


@pytest.mark.parametrize(
    "changes",
    [{"adapter": "lora"}, {"loss": {"type": "cross-entropy", "r_drop": 1.0}}, {"training.step_rule": "fgm"}, {"training.neftune": 3.0}],
    ids=["lora", "r-drop", "fgm", "noise"],
)
def test_other_means_go_with_a_teacher(changes: dict[str, Any], teacher: Path, recipe: MakeRecipe) -> None:
    changes = EVERY_2 | changes | distil(teacher, hidden=1.0, attention=1.0)
    whole = flow.train(recipe("whole", changes)).path
    run = train_until(recipe("run", changes), 5)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole)
    assert {"soft", "hidden", "attention"} <= set(steps_of(run)[-1]["losses"])


def test_kept_answers_go_with_kept_states_of_frozen_layers(teacher: Path, recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    changes = EVERY_2 | {"model.freeze": "body"}
    with caplog.at_level(logging.INFO, "luthier"):
        cached = flow.train(recipe("cached", changes | distil(teacher))).path
    assert "prefix cache: 90 rows" in caplog.text
    plain = flow.train(recipe("plain", changes | distil(teacher) | {"training.speed.prefix_cache": False})).path
    for one, other in zip(steps_of(cached), steps_of(plain), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4) and one["losses"]["soft"] == pytest.approx(
            other["losses"]["soft"], rel=1e-3
        )
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.train(recipe("asked", changes | distil(teacher, cache=False)))
    assert "no prefix cache: the teacher reads every row" in caplog.text


def test_long_texts_in_windows_have_one_answer(teacher: Path, recipe: MakeRecipe) -> None:
    windows = {"data.long_texts": "windows", "data.max_length": 8, "data.window_stride": 2}
    run = flow.train(recipe("run", EVERY_2 | windows | distil(teacher, hidden=1.0, attention=1.0))).path
    kept = laid(recipe("kept", windows | distil(teacher)))
    batch = next(iter(kept.saved.source))[0]
    assert "window_row" in batch.targets and len(batch.targets[TOLD]) == len(batch.ids) and len(steps_of(run)) == 8


@pytest.mark.parametrize(
    ("how", "pairs"), [("even", ((0, 1), (1, 3), (2, 5))), ("last", ((2, 5),)), ({2: 4, 0: 1}, ((0, 1), (2, 4)))], ids=str
)
def test_layers_are_paired(how: Any, pairs: Any) -> None:
    assert layer_pairs(how, 3, 6) == pairs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distill": {}}, "name one of the two"),
        ({"distill": {"teacher": "x", "logits": "y.jsonl"}}, "name one of the two"),
        ({"distill": {"logits": "y.jsonl", "hidden": 1}}, "need the teacher itself"),
        ({"distill": {"logits": "nothing.jsonl"}}, "no such file"),
        ({"distill": {"logits": "answers.npy"}}, "wanted a .jsonl file"),
        ({"distill": {"teacher": "x", "weight": 0}}, "nothing is learnt"),
        ({"distill": {"teacher": "./nowhere"}}, "no such model folder: ./nowhere\n.*distill.teacher"),
        ({"distill": {"teacher": "nobody-has-this"}}, "no folder 'nobody-has-this' here(.|\n)*distill.teacher"),
        ({"distill": {"teacher": "RUN", "hidden": 1, "layers": {0: 9}}}, "the teacher 0 to 1"),
        ({"distill": {"teacher": "RUN"}, "training.parallel": "fsdp2"}, "use training.parallel=ddp"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, teacher: Path, recipe: MakeRecipe) -> None:
    changes = json.loads(json.dumps(changes).replace("RUN", str(teacher)))
    with pytest.raises(UserError, match=said):
        flow.train(recipe("run", changes))


def test_a_run_does_not_go_on_with_another_teacher(teacher: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    files.make_folder(folder, lambda aside: [(aside / f.name).write_bytes(f.read_bytes()) for f in (teacher / "model").iterdir()])
    run = train_until(recipe("run", EVERY_2 | distil(folder)), 5)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="another teacher"):
        flow.resume(run)


def test_several_labels_a_text_are_learnt_from_a_teacher_too(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "several.csv", tiny.tiny_multi_label_rows(60))
    changes = EVERY_2 | {"data.label_separator": "|"}
    teacher = flow.train(recipe("teacher", changes, rows=rows)).path
    student = flow.train(recipe("student", changes | distil(teacher), rows=rows)).path
    assert all(step["losses"]["soft"] > 0 for step in steps_of(student))
    read = {"distill": {"logits": str(answers_file(teacher, rows, tmp_path / "answers.jsonl"))}}
    kept = laid(recipe("kept", changes | distil(teacher), rows=rows))
    told = laid(recipe("read", changes | read, rows=rows))
    one, other = (next(iter(bench.saved.source))[0].targets[TOLD] for bench in (kept, told))
    assert torch.allclose(one, other, atol=1e-3)


def test_a_teacher_with_other_labels_is_refused(teacher: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(60, classes=("delivery", "login")))
    with pytest.raises(UserError, match="has the labels delivery, login, payment, the rows have delivery, login.*same data"):
        flow.train(recipe("run", distil(teacher), rows=rows))


def test_a_teacher_with_another_vocabulary_is_refused(teacher: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", [(f"{text} ж", label) for text, label in tiny.tiny_rows(60)])
    with pytest.raises(UserError, match="another vocabulary.*extend_vocabulary=false leaves out 1"):
        flow.train(recipe("run", distil(teacher), rows=rows))


def test_a_teacher_of_another_problem_is_refused(teacher: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "several.csv", tiny.tiny_multi_label_rows(60))
    with pytest.raises(UserError, match="gives one class a text, the rows have several labels a text"):
        flow.train(recipe("run", {**distil(teacher), "data.label_separator": "|"}, rows=rows))
