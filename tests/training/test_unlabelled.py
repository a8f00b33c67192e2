"""Rows without labels beside those with: of them only the teacher's answers are learnt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import steps_of, train_until, weights_hash
from torch.nn import functional

from luthier import flow
from luthier.core.errors import UserError
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.distillation.distilled import labelled
from luthier.stages.distillation.teaching import with_answers
from luthier.stages.layout.begin import Bench, lay_out
from luthier.training.inference import measuring
from luthier.training.step_rules import step_rules

MakeRecipe = Callable[..., dict[str, Any]]
SHORT = {"training.max_steps": 6, "training.save_every": "2steps", "evaluate.baseline": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return flow.train(tiny.tiny_recipe(tiny_model, tiny_csv, folder / "run", {"training.max_steps": 100, "evaluate.baseline": False})).path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts alone, and one row that has none."""
    rows = [*((text,) for text, _ in tiny.tiny_rows(80, seed=8)), ("",)]
    return tiny.write_rows(tmp_path_factory.mktemp("texts") / "texts.csv", rows, header=("text",))


def laid(data: dict[str, Any]) -> Bench:
    resolved = resolve(data)
    return with_answers(lay_out(resolved, flow.prepare(resolved)))[0]


def distil(teacher: Path, texts: Path, **settings: Any) -> dict[str, Any]:
    return {"distill": {"teacher": str(teacher), "unlabelled": str(texts), **settings}}


def test_a_resumed_run_is_the_uninterrupted_one(teacher: Path, texts: Path, recipe: MakeRecipe) -> None:
    changes = SHORT | distil(teacher, texts, hidden=0.5)
    whole = flow.train(recipe("whole", changes)).path
    run = train_until(recipe("run", changes), 3)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    plain = {"distill": {"teacher": str(teacher), "hidden": 0.5}}
    assert weights_hash(run) != weights_hash(flow.train(recipe("plain", SHORT | plain)).path), "it changes what is learnt"


def test_answers_are_one_mean_over_rows_with_labels_and_without(
    teacher: Path, texts: Path, recipe: MakeRecipe, still_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "luthier"):
        bench = laid(recipe("run", distil(teacher, texts, temperature=3.0, weight=0.25), model=still_model))
    assert "80 rows of" in caplog.text and "1 cannot be used, such as row 81: empty text" in caplog.text
    window = next(iter(bench.saved.source))
    means = step_rules.get("accumulate")().gradient(bench.losses, bench.parts, window, nullcontext())
    theirs, module = Predictor.open(teacher), bench.parts["model"].module
    apart = number = own = num_labelled = 0.0
    for batch in window:
        for index, some in enumerate(labelled(batch)):
            assert some is not None, "as many without labels as with"
            with measuring(theirs.parts):
                told = torch.from_numpy(theirs.work.outputs(theirs.parts, some).logits_BC).clone()
            with torch.no_grad():
                mine = module(**some.inputs).logits
            apart += 9 * float(functional.kl_div((mine / 3).log_softmax(-1), (told / 3).softmax(-1), reduction="sum"))
            number += len(mine)
            if index == 0:
                own += float(functional.cross_entropy(mine, some.targets["labels"], reduction="sum"))
                num_labelled += len(mine)
    assert number == pytest.approx(2 * num_labelled, abs=0) and num_labelled > 0
    assert means["soft"] == pytest.approx(0.25 * apart / number, rel=1e-4)
    assert means["loss"] == pytest.approx(0.75 * own / num_labelled, rel=1e-4)


def test_a_step_may_be_cut_anywhere(teacher: Path, texts: Path, recipe: MakeRecipe, still_model: Path) -> None:
    found = []
    for size, pieces in ((8, 1), (4, 2), (2, 4)):
        cut = {"training.batch_size": size, "training.gradient_accumulation_steps": pieces, "training.group_by_length": False}
        changes = cut | distil(teacher, texts, unlabelled_share=0.6, hidden=0.5)
        bench = laid(recipe("run", changes, model=still_model))
        means = step_rules.get("accumulate")().gradient(bench.losses, bench.parts, next(iter(bench.saved.source)), nullcontext())
        gradients = [p.grad.flatten() for p in bench.parts["model"].module.parameters() if p.grad is not None]
        found.append((means, torch.cat(gradients)))
    for means, gradient in found[1:]:
        assert means == pytest.approx(found[0][0], rel=1e-5)
        assert float((gradient - found[0][1]).norm()) <= 2e-6 * float(gradient.norm())


def test_a_student_of_few_rows_comes_nearer_to_its_teacher(teacher: Path, texts: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    few = tiny.write_rows(tmp_path / "few.csv", tiny.tiny_rows(12, seed=4))
    common = {"training.max_steps": 60, "evaluate.baseline": False}
    new = [text for text, _ in tiny.tiny_rows(60, seed=21)]
    told = torch.from_numpy(Predictor.open(teacher).outputs(new).logits_BC).log_softmax(-1)
    apart = []
    for name, changes in (("few", {"distill": {"teacher": str(teacher)}}), ("many", distil(teacher, texts, unlabelled_share=0.8))):
        run = flow.train(recipe(name, common | changes, rows=few)).path
        said = torch.from_numpy(Predictor.open(run).outputs(new).logits_BC).log_softmax(-1)
        apart.append(float(functional.kl_div(said, told, reduction="batchmean", log_target=True)))
    assert apart[1] < 0.7 * apart[0], apart


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distill": {"logits": "a.jsonl", "unlabelled": "b.csv"}}, "name teacher"),
        ({"distill": {"teacher": "runs/t", "unlabelled": "b.csv", "weight": 0, "hidden": 1.0}}, "give weight a number above 0"),
        ({"task": "token-classification", "distill": {"teacher": "runs/t", "unlabelled": "b.csv"}}, "learnt as classes"),
    ],
)
def test_what_does_not_go_together_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve(None, changes)


def test_rows_that_are_not_there_are_said(teacher: Path, recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*gone\.csv"):
        laid(recipe("run", distil(teacher, tmp_path / "gone.csv")))
    empty = tiny.write_rows(tmp_path / "empty.csv", [("",)], header=("text",))
    with pytest.raises(UserError, match=r"no row of .*empty\.csv"):
        laid(recipe("run", distil(teacher, empty)))
