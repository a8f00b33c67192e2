"""A decoder learns from a larger one: from the words that the teacher expects, at supervised positions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny_decoder
import torch
from runs import steps_of, train_until, weights_hash
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from luthier import flow
from luthier.core import files
from luthier.core.errors import UserError
from luthier.recipe import resolve
from luthier.stages.layout.begin import lay_out
from luthier.training.step_rules import step_rules

MakeRecipe = Callable[[str, dict[str, Any]], dict[str, Any]]
SHORT = {"training.max_steps": 6, "training.save_every": "2steps", "evaluate.baseline": False}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder, wider and deeper than the student."""
    folder = tiny_decoder.make_tiny_decoder(tmp_path_factory.mktemp("models") / "teacher")
    config = LlamaConfig.from_pretrained(folder, hidden_size=48, num_hidden_layers=3, head_dim=12)
    torch.manual_seed(5)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> MakeRecipe:
    student = tiny_decoder.make_tiny_decoder(tmp_path / "student")
    rows = tiny_decoder.write_instructions(tmp_path / "rows.jsonl", tiny_decoder.tiny_instructions(60))
    return lambda name, changes: tiny_decoder.writing_recipe(student, rows, tmp_path / name, changes)


def test_a_resumed_run_is_the_uninterrupted_one(teacher: Path, made: MakeRecipe) -> None:
    changes = SHORT | {"distill": {"teacher": str(teacher)}}
    whole = flow.train(made("whole", changes)).path
    run = train_until(made("run", changes), 3)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    assert weights_hash(run) != weights_hash(flow.train(made("plain", SHORT)).path), "it changes what is learnt"
    losses = [line["losses"]["soft"] for line in files.read_json_lines(run / "events.jsonl") if "losses" in line]
    assert len(losses) == 6 and losses[-1] < losses[0]


@pytest.mark.parametrize("packing", [True, False])
def test_the_gradient_is_that_of_the_whole_logits(packing: bool, teacher: Path, made: MakeRecipe) -> None:
    settings = {"teacher": str(teacher), "weight": 1.0, "temperature": 2.0}
    resolved = resolve(made("run", {"distill": settings, "data.packing": packing}))
    bench = lay_out(resolved, flow.prepare(resolved))
    batch = next(iter(bench.saved.source))[0]
    means = step_rules.get("accumulate")().gradient(bench.losses, bench.parts, [batch], nullcontext())
    student = bench.parts["model"].module
    found = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    theirs = AutoModelForCausalLM.from_pretrained(teacher)
    total = torch.zeros(())
    for row in (bench.prepared.splits["train"].row(int(place)) for place in bench.saved.source.taken.rows):
        alone = bench.work.collate([row])
        at = alone.targets["at"]
        ids = torch.from_numpy(row.windows[0].astype("int64"))[None]
        one, other = (model(input_ids=ids, use_cache=False).logits[0, at] / 2 for model in (student.model, theirs))
        total = total + 4 * functional.kl_div(one.log_softmax(-1), other.detach().softmax(-1), reduction="sum")
    total = total / len(batch.targets["tokens"])
    total.backward()
    assert means["soft"] == pytest.approx(float(total.detach()), rel=1e-4)
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and torch.allclose(parameter.grad, found[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden": 1.0}, "learns from the teacher's answers alone"),
        ({"teacher": None, "logits": "answers.jsonl"}, "name the teacher itself"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, teacher: Path, made: MakeRecipe) -> None:
    with pytest.raises(UserError, match=said):
        flow.train(made("run", {"distill": {"teacher": str(teacher), **changes}}))


def test_a_teacher_with_other_words_is_refused(made: MakeRecipe, tmp_path: Path) -> None:
    folder = tiny_decoder.make_tiny_decoder(tmp_path / "other")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"green"', '"verde"'), encoding="utf-8")
    with pytest.raises(UserError, match="another vocabulary.*begin with a model that has the teacher's tokenizer"):
        flow.train(made("run", {"distill": {"teacher": str(folder)}}))
