"""Losses in which rows of a batch meet: contrasts beside the loss, and mixup. Right by hand, and exact after a resume."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from runs import steps_of, train_until, weights_hash
from test_gradient_accumulation import NUM_TRAINING_ROWS, laid_out

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.core.work import Batch
from luthier.losses.contrasts import contrasts
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench
from luthier.stages.layout.decide import require_known_terms, require_one_process
from luthier.stages.layout.feeding import most_tokens_at_once
from luthier.training.step_rules import step_rules

MakeRecipe = Callable[..., dict[str, Any]]
EVERY_2 = {"training.max_steps": 6, "training.save_every": "2steps", "evaluate.baseline": False}
WINDOWS = {"data.long_texts": "windows", "data.max_length": 7, "data.window_stride": 1}
CASES: dict[str, dict[str, Any]] = {
    "contrast": {"loss": {"contrast": "supervised-contrastive"}},
    "contrast by class": {"loss": {"contrast": "supervised-contrastive"}, "training.rows_per_class": 2},
    "mixed words": {"loss": {"mixup": {"alpha": 1.0, "at": "words"}}},
    "mixed scores, cut": {"loss": {"mixup": {"alpha": 1.0}}, "training.gradient_accumulation_steps": 2, "training.batch_size": 4},
    "much at once": {"loss": {"type": "focal", "contrast": {"type": "triplet"}, "mixup": {}, "r_drop": 1.0}, "training.step_rule": "fgm"},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_resumed_run_is_the_uninterrupted_one(changes: dict[str, Any], recipe: MakeRecipe) -> None:
    whole = flow.train(recipe("whole", EVERY_2 | changes)).path
    run = train_until(recipe("run", EVERY_2 | changes), 3)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    plain = {key: value for key, value in changes.items() if key != "loss"}
    assert weights_hash(run) != weights_hash(flow.train(recipe("plain", EVERY_2 | plain)).path), "it changes what is learnt"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.batch_size": 6, "training.rows_per_class": 4}, "training.batch_size=8 or more"),
        ({"training.batch_tokens": 64, "training.rows_per_class": 2}, "use training.batch_size"),
        ({"task": "text-generation", "training.rows_per_class": 2}, "leave training.rows_per_class out"),
    ],
)
def test_batches_by_class_want_classes_and_room(changes: dict[str, Any], said: str, recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        resolve(recipe("run", changes))


def first_batch(recipe: MakeRecipe, model: Path, folder: Path, changes: dict[str, Any]) -> tuple[Bench, Batch]:
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    bench = laid_out(recipe("run", {"data.split": {"test": 0}, **changes}, model=model, rows=rows), 8, 1)
    return bench, next(iter(bench.saved.source))[0]


@pytest.mark.parametrize(
    "changes", [{}, WINDOWS, {"model.head": {"pooling": "mean", "hidden": [8], "dropout": 0.0}}], ids=["", "windows", "own head"]
)
def test_what_is_compared_is_what_the_last_layer_reads(
    changes: dict[str, Any], recipe: MakeRecipe, still_model: Path, tmp_path: Path
) -> None:
    loss = {"loss": {"contrast": {"weight": 0.3, "temperature": 0.5}}}
    bench, batch = first_batch(recipe, still_model, tmp_path, loss | changes)
    module: Any = bench.parts["model"].module
    last, fed = (module.head[-1] if "model.head" in changes else module.classifier), []
    hook = last.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    terms = bench.losses.losses(bench.parts, batch)
    hook.remove()
    vectors = fed[0]
    if "window_row" in batch.targets:
        vectors = torch.stack([vectors[batch.targets["window_row"] == row].mean(0) for row in range(len(batch.ids))])
    expected = contrasts.get("supervised-contrastive")(temperature=0.5)(vectors, batch.targets["labels"])
    assert float(terms["contrast"].sum) == pytest.approx(float(expected.sum), rel=1e-5) and terms["contrast"].coefficient == 0.3
    assert bench.losses.weights(batch)["contrast"] == float(expected.weight) > 0
    assert not last._forward_pre_hooks, "no hook is left behind"
    means = step_rules.get("accumulate")().gradient(bench.losses, bench.parts, [batch], nullcontext())
    assert means["contrast"] == pytest.approx(0.3 * float(expected.sum / expected.weight), rel=1e-5)
    assert means["total"] == pytest.approx(means["loss"] + means["contrast"], rel=1e-6)


def test_steps_tell_the_contrast_and_it_falls(recipe: MakeRecipe) -> None:
    changes = {
        "loss": {"contrast": "supervised-contrastive"},
        "model.head": {"pooling": "mean"},
        "training.max_steps": 40,
        "evaluate.baseline": False,
    }
    steps = [step["losses"]["contrast"] for step in steps_of(flow.train(recipe("run", changes)).path)]
    assert steps[0] == 0, "the first batch has two rows of two classes"
    assert np.mean(steps[-10:]) < 0.7 * np.mean(steps[1:11])


def shares_of(bench: Bench, batch: Batch, step: int) -> tuple[float, list[int]]:
    """The share and the partners that a step draws for a batch."""
    seen: list[Any] = []

    class Watching:
        def losses(self, _: Any, mixed: Batch) -> Any:
            seen.append(mixed)
            return {}

    bench.saved.state.step = step
    replace(bench.losses, work=Watching()).losses(bench.parts, batch)  # type: ignore[type-var]
    return float(seen[0].targets["mixed_share"]), seen[0].targets["mixed_with"].tolist()


@pytest.mark.parametrize("at", ["words", "head"])
def test_mixup_worked_by_hand(at: str, recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    bench, batch = first_batch(recipe, still_model, tmp_path, {"loss": {"mixup": {"alpha": 1.0, "at": at}}})
    share, partners = shares_of(bench, batch, 4)
    assert sorted(partners) == list(range(8)) and partners != list(range(8)) and 0.02 < share < 0.98
    module: Any = bench.parts["model"].module
    if at == "head":
        logits = module(**batch.inputs).logits
        mixed = share * logits + (1 - share) * logits[partners]
    else:
        words = module.get_input_embeddings()(batch.inputs["input_ids"])
        mask = batch.inputs["attention_mask"] | batch.inputs["attention_mask"][partners]
        inputs = {**batch.inputs, "attention_mask": mask}
        inputs.pop("input_ids")
        mixed = module(**inputs, inputs_embeds=share * words + (1 - share) * words[partners]).logits
    target = batch.targets["labels"]
    costs = [float(torch.nn.functional.cross_entropy(mixed, wanted, reduction="sum")) for wanted in (target, target[partners])]
    terms = bench.losses.losses(bench.parts, batch)
    assert float(terms["loss"].sum) == pytest.approx(share * costs[0] + (1 - share) * costs[1], rel=1e-5)
    assert float(terms["loss"].weight) == bench.losses.weights(batch)["loss"] == 8
    assert abs(costs[0] - float(terms["loss"].sum)) > 1e-3


def test_shares_follow_from_seed_step_and_rows(recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    bench, batch = first_batch(recipe, still_model, tmp_path, {"loss": {"mixup": {"alpha": 0.2}}})
    drawn = [shares_of(bench, batch, step) for step in range(400)]
    assert drawn[7] == shares_of(bench, batch, 7) and len({share for share, _ in drawn}) > 370
    shares = np.array([share for share, _ in drawn])
    assert 0.42 < shares.mean() < 0.58 and 0.3 < shares.std() < 0.5, "Beta(0.2, 0.2) has mean 0.5 and deviation 0.42"
    other = replace(batch, ids=[id_ + 1 for id_ in batch.ids])
    assert shares_of(bench, other, 7) != drawn[7]


def test_a_row_alone_is_learnt_as_it_is(recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    loss = {"loss": {"mixup": {"alpha": 1.0}, "contrast": "circle"}}
    bench, batch = first_batch(recipe, still_model, tmp_path, loss)
    one = bench.work.collate([bench.prepared.splits["train"].row(0)])
    terms, plain = bench.losses.losses(bench.parts, one), bench.work.losses(bench.parts, one)
    assert float(terms["loss"].sum) == pytest.approx(float(plain["loss"].sum), rel=1e-6) and float(terms["contrast"].sum) == 0


def test_mixed_words_and_stored_states_exclude_each_other(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    flow.train(recipe("run", {"model.freeze": 1, "loss": {"mixup": {"at": "words"}}, "training.max_steps": 2}))
    assert "no prefix cache: texts are mixed in the word embeddings (loss.mixup.at)" in caplog.text
    stored = flow.train(recipe("stored", {"model.freeze": 1, "loss": {"mixup": {}, "contrast": "triplet"}, "training.max_steps": 2}))
    assert steps_of(stored.path)[1]["losses"]["contrast"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss.contrast": "tripplet"}, "loss.contrast: type: unknown contrast 'tripplet'"),
        ({"loss.contrast.temperature": -1}, "loss.contrast: temperature: "),
        ({"loss.mixup.alpha": 0}, "loss.mixup.alpha"),
        (
            {"loss.contrast": "triplet", "training.gradient_accumulation_steps": 2},
            "training.gradient_accumulation_steps: loss.contrast compares",
        ),
        ({"loss.contrast": "triplet", "training.most_tokens_at_once": 512}, "training.most_tokens_at_once: loss.contrast compares"),
        ({"loss.contrast": "triplet", "loss.mixup.at": "words"}, "loss.mixup.at: a mixed text has no class"),
        ({"loss.mixup.at": "words", "data.long_texts": "windows"}, "loss.mixup.at: mixes texts token by token"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, changes)
    assert said in str(caught.value)


def test_rows_that_meet_stay_together(recipe: MakeRecipe) -> None:
    resolved = resolve(recipe("run", {"loss": {"contrast": "triplet"}, "adapter": "lora"}))
    assert most_tokens_at_once(resolved, "cpu") is None
    assert most_tokens_at_once(resolve(recipe("run", {"adapter": "lora"})), "cpu") == 2048
    two: Any = SimpleNamespace(size=2)
    with pytest.raises(ConfigError, match="compares the rows of a batch, and each of 2 processes has a part of them"):
        require_one_process(resolved, two)


def test_a_task_that_passes_them_over_is_told(recipe: MakeRecipe) -> None:
    resolved, plain = resolve(recipe("run", {"loss": {"contrast": "triplet", "mixup": {}, "smart": {}}})), resolve(recipe("run"))
    deaf: Any = SimpleNamespace(losses=None, weights=None)
    with pytest.raises(ConfigError) as caught:
        require_known_terms(resolved, deaf)
    assert [fault.path for fault in caught.value.faults] == ["loss.contrast", "loss.mixup", "loss.smart"]
    require_known_terms(plain, deaf)


def test_labels_of_several_classes_have_no_contrast(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "several.csv", tiny.tiny_multi_label_rows(40))
    changes = {"data.label_separator": "|", "loss": {"type": "binary-cross-entropy", "contrast": "triplet"}}
    with pytest.raises(ConfigError, match="here a row has several labels"):
        flow.train(recipe("run", changes, rows=rows))
