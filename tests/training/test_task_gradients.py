"""Step rules that tell tasks apart: what PCGrad takes out, against the formula, and on whole runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import steps_of, train_until, weights_hash
from tiny_tasks import two_tasks
from torch import Tensor, nn

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.core.work import Batch, Part, Parts, Term, Terms
from luthier.recipe import resolve
from luthier.stages.layout.begin import lay_out
from luthier.training.step_rules import rule_of
from luthier.training.step_rules.gradnorm import LEAST, moved
from luthier.training.step_rules.pcgrad import projected

TURNS = {"training.gradient_accumulation_steps": 2, "evaluate.baseline": False}
RULES: dict[str, dict[str, Any]] = {
    "pcgrad": {"mixing": {"sampling": "round-robin"}, "training.step_rule": "pcgrad"},
    "gradnorm": {"mixing": {"sampling": "round-robin", "weights": "gradnorm"}, "training.ema": 0.9},
}
every_rule = pytest.mark.parametrize("rule", RULES)


class Pulls:
    """Each task pulls the shared weights towards a place of its own, and has a weight for itself."""

    def __init__(self, places: dict[str, Tensor]) -> None:
        self.places = places
        self.module = nn.ParameterDict({"shared": nn.Parameter(torch.zeros(3)), **{task: nn.Parameter(torch.ones(())) for task in places}})

    def weights(self, batch: Batch) -> dict[str, float]:
        return {str(batch.task): float(len(batch.ids))}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        module: Any = parts["model"].module
        task = str(batch.task)
        loss = -(module["shared"] * self.places[task]).sum() + 2 * module[task]
        return {task: Term(loss * len(batch.ids), torch.tensor(float(len(batch.ids))))}


def gradient_of(rule: Any, places: dict[str, list[float]], tasks: list[str]) -> dict[str, Tensor | None]:
    work = Pulls({task: torch.tensor(place) for task, place in places.items()})
    window = [Batch([number], {}, task=task) for number, task in enumerate(tasks)]
    rule_of(rule).gradient(work, {"model": Part(work.module)}, window, nullcontext())
    return {name: p.grad for name, p in work.module.named_parameters()}


def test_conflicting_gradients_lose_what_they_have_against_each_other() -> None:
    found = gradient_of("pcgrad", {"a": [1.0, 0.0, 0.0], "b": [-1.0, 1.0, 0.0]}, ["a", "b"])
    # g_a = -(1, 0, 0), g_b = -(-1, 1, 0); a without b's part: -(0.5, 0.5, 0), b without a's: -(0, 1, 0)
    assert found["shared"] is not None and torch.allclose(found["shared"], -torch.tensor([0.5, 1.5, 0.0]))
    assert float(found["a"]) == float(found["b"]) == 2.0, "what one task has for itself stays as it is"  # type: ignore[arg-type]


def test_gradients_that_agree_are_added_up() -> None:
    places = {"a": [1.0, 0.0, 0.0], "b": [1.0, 1.0, 0.0]}
    found, plain = gradient_of("pcgrad", places, ["a", "b"]), gradient_of("accumulate", places, ["a", "b"])
    assert all(torch.equal(found[name], plain[name]) for name in found)  # type: ignore[arg-type]


def test_batches_of_one_task_are_one_gradient_and_a_task_may_be_missing() -> None:
    places = {"a": [1.0, 0.0, 0.0], "b": [-1.0, 1.0, 0.0]}
    more, found = gradient_of("pcgrad", places, ["a", "b", "a"]), gradient_of("pcgrad", places, ["a", "b"])
    assert torch.allclose(more["shared"], found["shared"])  # type: ignore[arg-type]
    alone = gradient_of("pcgrad", places, ["b", "b"])
    assert alone["a"] is None and torch.equal(alone["shared"], -torch.tensor([-1.0, 1.0, 0.0]))  # type: ignore[arg-type]


def test_after_projection_no_two_original_gradients_are_opposed_by_what_two_tasks_keep() -> None:
    torch.manual_seed(0)
    for _ in range(50):
        before = {task: [torch.randn(5), torch.randn(2, 2)] for task in "ab"}
        after = projected(dict(before))
        for mine, other in (("a", "b"), ("b", "a")):
            products = [float((kept * against).sum()) for kept, against in zip(after[mine], before[other], strict=True)]  # type: ignore[operator]
            assert sum(products) >= -1e-5


@every_rule
def test_losses_and_heads_are_those_of_a_plain_step(rule: str, tiny_model: Path, tmp_path: Path) -> None:
    changes = {**TURNS, **RULES[rule]}
    resolved = resolve(two_tasks(tiny_model, tmp_path, changes))
    bench = lay_out(resolved, flow.prepare(resolved))
    bench.parts["model"].module.eval()
    window = next(iter(bench.saved.source))
    assert [batch.task for batch in window] == ["subject", "money"]
    means = rule_of(bench.recipe.training.step_rule).gradient(bench.work, bench.parts, window, nullcontext())
    heads = {
        name: p.grad.clone() for name, p in bench.parts["model"].module.named_parameters() if "classifier" in name and p.grad is not None
    }
    bench.saved.optimiser.zero_grad()
    plain = rule_of("accumulate").gradient(bench.work, bench.parts, window, nullcontext())
    assert means == pytest.approx(plain, rel=1e-5) and len(heads) == 4
    named = dict(bench.parts["model"].module.named_parameters())
    assert all(torch.allclose(heads[name], named[name].grad, rtol=1e-4, atol=1e-7) for name in heads)


@every_rule
def test_a_run_goes_on_bit_for_bit(rule: str, tiny_model: Path, tmp_path: Path) -> None:
    changes = {**TURNS, **RULES[rule], "training.max_steps": 8, "training.save_every": "3steps"}
    whole = flow.train(two_tasks(tiny_model, tmp_path, changes, "whole")).path
    stopped = train_until(two_tasks(tiny_model, tmp_path, changes, "stopped"), 5)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(whole)
    assert weights_hash(stopped / "tasks" / "money") == weights_hash(whole / "tasks" / "money")
    assert all(set(line["losses"]) == {"subject", "money"} for line in steps_of(whole))


@every_rule
def test_several_tasks_in_a_step_are_needed(rule: str, tiny_model: Path, tmp_path: Path, recipe: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="batches of several tasks") as caught:
        resolve(two_tasks(tiny_model, tmp_path, {"training.step_rule": rule}))
    assert "gradient_accumulation_steps=2" in str(caught.value)
    with pytest.raises(ConfigError, match="the recipe has one"):
        resolve(recipe("run", {"training.step_rule": rule}))


def test_gradnorm_moves_the_weights_down_the_distance_from_the_target() -> None:
    weights, norms, left = {"a": 1.2, "b": 0.8}, {"a": 3.0, "b": 1.0}, {"a": 0.9, "b": 0.5}
    targets = {}

    def distance(candidate: dict[str, Tensor]) -> Tensor:
        lengths = {task: candidate[task] * norms[task] / 2.0 for task in norms}
        return sum((lengths[task] - targets[task]).abs() for task in norms)  # type: ignore[return-value]

    middle = (1.2 * 1.5 + 0.8 * 0.5) / 2
    targets.update({task: middle * (left[task] / 0.7) ** 1.5 for task in norms})
    candidate = {task: torch.tensor(weight, requires_grad=True) for task, weight in weights.items()}
    distance(candidate).backward()
    stepped = {task: weight - 0.1 * float(candidate[task].grad) for task, weight in weights.items()}  # type: ignore[arg-type]
    expected = {task: weight * 2 / sum(stepped.values()) for task, weight in stepped.items()}
    assert moved(weights, norms, left, alpha=1.5, rate=0.1) == pytest.approx(expected)


def test_gradnorm_draws_on_the_task_that_lags() -> None:
    weights, alike = {"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.0}
    slower = moved(weights, alike, {"a": 1.0, "b": 0.2}, alpha=1.0, rate=0.05)
    assert slower["a"] > 1 > slower["b"] and sum(slower.values()) == pytest.approx(2)
    longer = moved(weights, {"a": 4.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, alpha=1.0, rate=0.05)
    assert longer["a"] < 1 < longer["b"]
    for _ in range(200):
        longer = moved(longer, {"a": 4.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, alpha=1.0, rate=0.005)
    assert longer["a"] * 4 == pytest.approx(longer["b"], rel=0.05), "the weighed norms meet"
    assert min(moved({"a": LEAST, "b": 1.0}, {"a": 9.0, "b": 0.1}, {"a": 0.1, "b": 1.0}, alpha=1.0, rate=1.0).values()) > 0


def test_gradnorm_keeps_its_weights_in_checkpoints_and_uses_them(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = flow.train(two_tasks(tiny_model, tmp_path, {**TURNS, **RULES["gradnorm"], "training.max_steps": 12})).path
    kept = load_file(run / "checkpoints" / "step-00000012" / "model.safetensors")
    weights = {name: float(tensor) for name, tensor in kept.items() if name.startswith("balance.weights.")}
    assert sum(weights.values()) == pytest.approx(2, rel=1e-4) and all(abs(weight - 1) > 0.01 for weight in weights.values()), weights
    assert all(float(kept[f"balance.first_losses.{task}"]) > 0 for task in ("subject", "money"))
    assert not any("balance" in name for name in load_file(run / "model" / "money" / "model.safetensors"))
    resolved = resolve(two_tasks(tiny_model, tmp_path, {**TURNS, **RULES["gradnorm"]}, "other"))
    bench = lay_out(resolved, flow.prepare(resolved))
    bench.parts["model"].module.eval()
    balance: Any = bench.parts["model"].module.balance
    with torch.no_grad():
        balance.weights["subject"].fill_(1.5)
        balance.weights["money"].fill_(0.5)
    window, named = next(iter(bench.saved.source)), dict(bench.parts["model"].module.named_parameters())
    rule_of("accumulate").gradient(bench.work, bench.parts, window, nullcontext())
    plain = {name: p.grad.clone() for name, p in named.items() if "classifier" in name and p.grad is not None}
    bench.saved.optimiser.zero_grad()
    rule_of(bench.recipe.training.step_rule).gradient(bench.work, bench.parts, window, nullcontext())
    for name, gradient in plain.items():
        assert torch.allclose(named[name].grad, gradient * (1.5 if "subject" in name else 0.5), rtol=1e-4, atol=1e-7)  # type: ignore[arg-type]


def test_gradnorm_is_a_weight_and_a_step_rule_at_once(tiny_model: Path, tmp_path: Path) -> None:
    for changes in ({"training.step_rule": "gradnorm"}, {"mixing": {"weights": "gradnorm"}, "training.step_rule": "pcgrad"}):
        with pytest.raises(ConfigError, match="with the step rule") as caught:
            resolve(two_tasks(tiny_model, tmp_path, {**TURNS, **changes}))
        assert "mixing.weights=gradnorm" in str(caught.value)
    with pytest.raises(ConfigError, match="fp16 scales the losses"):
        resolve(two_tasks(tiny_model, tmp_path, {**TURNS, "mixing": {"weights": "gradnorm"}, "training.precision": "fp16"}))
