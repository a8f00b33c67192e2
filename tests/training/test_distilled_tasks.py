"""Students of tasks whose answers are no plain classes: tags with a chain, tags in another order, classes in an order, written texts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_seq2seq
import torch
from row_tasks import intent_and_slots, sentence_similarity, token_classification
from runs import steps_of, train_until, weights_hash
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, UserError
from luthier.models.linear_chain import Chain, log_marginals, log_partition, path_score
from luthier.recipe import resolve
from luthier.stages.distillation.teaching import with_answers
from luthier.stages.layout.begin import Bench, lay_out
from luthier.training.step_rules import step_rules

MakeRecipe = Callable[..., dict[str, Any]]
TAGS = {"task": "token-classification", "evaluate.baseline": False, "training.max_steps": 12}
STARS = {"task": "ordinal-classification", "evaluate.baseline": False}


def laid(data: dict[str, Any]) -> Bench:
    resolved = resolve(data)
    return with_answers(lay_out(resolved, flow.prepare(resolved)))[0]


# ---- tags


def test_marginals_are_the_shares_of_all_rows_of_tags() -> None:
    dice = torch.Generator().manual_seed(0)
    scores, starts, follows, ends = (torch.randn(*shape, generator=dice) for shape in ((1, 3, 2), (2,), (2, 2), (2,)))
    chain, present = Chain(starts, follows, ends), torch.ones(1, 3, dtype=torch.bool)
    total = log_partition(scores, present, chain)
    shares = torch.zeros(3, 2)
    for tags in np.ndindex(2, 2, 2):
        share = (path_score(scores, torch.tensor([tags]), present, chain) - total).exp()
        shares[torch.arange(3), torch.tensor(tags)] += share
    assert torch.allclose(log_marginals(scores, present, chain)[0].exp(), shares, atol=1e-5)


@pytest.mark.parametrize("chains", [(True, True), (True, False), (False, True)])
def test_a_chain_and_single_tags_learn_from_each_other(
    chains: tuple[bool, bool], recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = token_classification.write(tmp_path)
    first, second = ({"type": "token-classification", "crf": chain} for chain in chains)
    teacher = flow.train(recipe("teacher", TAGS | {"task": first, "training.max_steps": 30}, rows=rows)).path
    distill = {"teacher": str(teacher), "weight": 1.0}
    with caplog.at_level(logging.INFO, "luthier"):
        run = flow.train(recipe("student", TAGS | {"task": second, "distill": distill}, rows=rows))
    soft = [line["losses"]["soft"] for line in files.read_json_lines(run.events) if "losses" in line]
    assert np.mean(soft[-3:]) < 0.9 * np.mean(soft[:3])
    assert "the teacher is asked at every step: it answers each row in its own way" in caplog.text


def test_tags_of_the_teacher_may_have_another_order(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows, told = token_classification.write(tmp_path), []
    teacher = flow.train(recipe("teacher", TAGS, rows=rows)).path
    for name, turned in (("as it is", False), ("turned", True)):
        folder = tmp_path / name
        files.make_folder(folder, lambda aside: [(aside / f.name).write_bytes(f.read_bytes()) for f in (teacher / "model").iterdir()])
        settings = files.read_json(folder / "luthier.json")
        labels = settings["labels"][::-1] if turned else settings["labels"]
        files.write_json(folder / "luthier.json", {**settings, "labels": labels})
        bench = laid(recipe("run", TAGS | {"distill": {"teacher": str(folder)}}, rows=rows))
        assert bench.teaching is not None and bench.teaching.teacher is not None
        batch = bench.work.collate([bench.prepared.splits["train"].row(row) for row in range(6)])
        told.append(bench.teaching.teacher.told(batch, bench.work)["loss"].scores_NC)  # type: ignore[attr-defined]
    assert torch.allclose(told[0], told[1].flip(-1), atol=1e-6) and not torch.allclose(told[0], told[1], atol=1e-3)


def test_a_teacher_of_other_slots_is_refused(recipe: MakeRecipe, tmp_path: Path) -> None:
    changes = {"task": "intent-and-slots", "evaluate.baseline": False, "training.max_steps": 2}
    teacher = flow.train(recipe("teacher", changes, rows=intent_and_slots.write(tmp_path))).path
    settings = files.read_json(teacher / "model" / "luthier.json")
    files.write_json(teacher / "model" / "luthier.json", {**settings, "tags": [*settings["tags"][:-1], "B-other"]})
    with pytest.raises(UserError, match="has the labels of slots O, .*; only the teacher: B-other; only the rows: I-payment"):
        flow.train(recipe("student", changes | {"distill": {"teacher": str(teacher)}}, rows=tmp_path / "rows.jsonl"))


# ---- vectors


def test_vectors_of_a_wider_teacher_are_compared_by_cosines(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = sentence_similarity.write(tmp_path)
    wide = tiny.make_tiny_model(tmp_path / "wide", width=48, seed=3)
    changes = {"task": "sentence-similarity", "training.max_steps": 20, "training.batch_size": 16}
    teacher = flow.train(recipe("teacher", changes, model=wide, rows=rows)).path
    run = flow.train(recipe("student", changes | {"distill": {"teacher": str(teacher), "weight": 1.0}}, rows=rows))
    soft = [line["losses"]["soft"] for line in files.read_json_lines(run.events) if "losses" in line]
    assert np.mean(soft[-3:]) < 0.9 * np.mean(soft[:3])


# ---- classes in an order


def test_stars_are_learnt_as_classes_and_kept_on_disk(recipe: MakeRecipe, tmp_path: Path, still_model: Path) -> None:
    rows = tiny.write_rows(tmp_path / "stars.csv", tiny.tiny_star_rows(120))
    teacher = flow.train(recipe("teacher", STARS | {"training.max_steps": 30}, rows=rows)).path
    found = []
    for cache in (True, False):
        distill = {"teacher": str(teacher), "weight": 0.5, "temperature": 2.0, "cache": cache}
        bench = laid(recipe("run", STARS | {"distill": distill}, model=still_model, rows=rows))
        assert bench.teaching is not None and (bench.teaching.answers is not None) == cache
        means = step_rules.get("accumulate")().gradient(bench.losses, bench.parts, next(iter(bench.saved.source)), nullcontext())
        found.append((means, bench))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5) and found[0][0]["soft"] > 1e-3
    run = flow.train(recipe("student", STARS | {"distill": {"teacher": str(teacher), "weight": 1.0}}, rows=rows))
    soft = [line["losses"]["soft"] for line in files.read_json_lines(run.events) if "losses" in line]
    assert np.mean(soft[-3:]) < 0.9 * np.mean(soft[:3])


# ---- texts that are read and written


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of another seed than the student."""
    return tiny_seq2seq.make_tiny_seq2seq(tmp_path_factory.mktemp("models") / "teacher", seed=7)


@pytest.fixture
def pairs(tmp_path: Path) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    student = tiny_seq2seq.make_tiny_seq2seq(tmp_path / "student")
    rows = tiny_seq2seq.write_pairs(tmp_path / "pairs.jsonl", tiny_seq2seq.tiny_pairs(60))
    short = {"training.max_steps": 6, "training.save_every": "2steps", "evaluate.baseline": False}
    return lambda name, changes: tiny_seq2seq.pairs_recipe(student, rows, tmp_path / name, short | changes)


def test_words_of_an_encoder_decoder_are_those_of_the_whole_logits(writer: Path, pairs: Callable[..., dict[str, Any]]) -> None:
    bench = laid(pairs("run", {"distill": {"teacher": str(writer), "weight": 1.0, "temperature": 2.0}}))
    batch = next(iter(bench.saved.source))[0]
    for part in bench.parts.values():
        part.module.eval()
    found = bench.losses.losses(bench.parts, batch)["soft"]
    theirs, mine = AutoModelForSeq2SeqLM.from_pretrained(writer).eval(), bench.parts["model"].module.model
    with torch.no_grad():
        one, other = (model(**batch.inputs).logits.flatten(0, 1)[batch.targets["at"]] / 2 for model in (mine, theirs))
    by_hand = 4 * functional.kl_div(one.log_softmax(-1), other.softmax(-1), reduction="sum")
    assert float(found.sum.detach()) == pytest.approx(float(by_hand), rel=1e-4)
    assert float(found.weight) == len(batch.targets["tokens"]) == bench.losses.weights(batch)["soft"]


def test_a_resumed_student_of_a_writer_is_the_uninterrupted_one(writer: Path, pairs: Callable[..., dict[str, Any]]) -> None:
    changes = {"distill": {"teacher": str(writer)}}
    whole = flow.train(pairs("whole", changes)).path
    run = train_until(pairs("run", changes), 3)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    assert weights_hash(run) != weights_hash(flow.train(pairs("plain", {})).path), "it changes what is learnt"


# ---- what does not go


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "token-classification", "distill.logits": "answers.jsonl"}, "answers each row in its own way"),
        ({"task": "translation", "distill.logits": "answers.jsonl"}, "answers of a whole vocabulary for each token"),
        ({"task": "translation", "distill": {"teacher": "runs/t", "hidden": 1.0}}, "learns from the teacher's answers alone"),
        ({"task": "sentence-similarity", "distill": "runs/t", "training.step_rule": "grad-cache"}, "a teacher adds terms of its own"),
    ],
)
def test_what_does_not_go_together_is_said(changes: dict[str, Any], said: str) -> None:
    changes = {key: {"teacher": value} if value == "runs/t" else value for key, value in changes.items()}
    with pytest.raises(ConfigError, match=said):
        resolve(None, changes)
