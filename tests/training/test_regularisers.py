"""R-Drop, averages of the weights, noise on the words and the pull towards the start: right by hand, and exact after a resume."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from runs import checkpoint_weights, steps_of, train_until, weights_hash
from safetensors.torch import load_file
from test_gradient_accumulation import NUM_TRAINING_ROWS, SPLITS, laid_out
from torch import Tensor, nn
from torch.nn import functional

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.core.work import Batch, Part, Term
from luthier.losses.loss import disagreement
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench
from luthier.training.adversary import Ascent, Words
from luthier.training.averages import Averages, Moving, Stochastic, add_averages, averaged
from luthier.training.mixout import Mixout, starts_of
from luthier.training.pull import Pull
from luthier.training.smoothing import Smooth
from luthier.training.state import TrainingState
from luthier.training.step_rules import step_rules

MakeRecipe = Callable[..., dict[str, Any]]
EVERY_2 = {"training.max_steps": 8, "training.save_every": "2steps", "evaluate.baseline": False}
SOME_OPTIMISER = torch.optim.SGD([torch.zeros(1)], lr=1.0)
CASES: dict[str, dict[str, Any]] = {
    "r-drop": {"loss": {"type": "cross-entropy", "r_drop": 2.0}},
    "r-drop of a cut batch": {
        "loss": {"type": "focal", "r_drop": 2.0},
        "training.gradient_accumulation_steps": 2,
        "training.batch_size": 4,
    },
    "average": {"training.ema": 0.6},
    "mean of steps": {"training.swa": {"start": "50%", "every": "2 steps"}},
    "noise": {"training.neftune": 5.0},
    "pull": {"training.l2_sp": 3.0},
    "smart": {"loss": {"type": "cross-entropy", "smart": {"steps": 2}}},
    "smart with more": {
        "loss": {"type": "cross-entropy", "smart": {}, "mixup": {"at": "words"}, "r_drop": 1.0},
        "training.gradient_accumulation_steps": 2,
        "training.batch_size": 4,
    },
    "mixout, cut": {"training.mixout": 0.3, "training.gradient_accumulation_steps": 2, "training.batch_size": 4},
    "all, with freelb": {
        "training.ema": 0.6,
        "training.neftune": 5.0,
        "training.l2_sp": 3.0,
        "training.step_rule": "freelb",
        "loss": {"type": "cross-entropy", "r_drop": 1.0},
    },
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_resumed_run_is_the_uninterrupted_one(changes: dict[str, Any], recipe: MakeRecipe) -> None:
    whole = flow.train(recipe("whole", EVERY_2 | changes)).path
    run = train_until(recipe("run", EVERY_2 | changes), 5)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    assert weights_hash(run) != weights_hash(flow.train(recipe("plain", EVERY_2)).path), "it changes what is learnt"


def gradients(bench: Bench, work: Any) -> list[tuple[dict[str, float], Tensor]]:
    """Means and gradient of each step of one epoch, at the same weights."""
    rule, found, windows = step_rules.get("accumulate")(), [], iter(bench.saved.source)
    for step in range(bench.pace.steps_per_epoch):
        bench.saved.state.step = step
        means = rule.gradient(work, bench.parts, next(windows), nullcontext())
        parameters = [p for part in bench.parts.values() for p in part.module.parameters()]
        found.append((means, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])))
        bench.saved.optimiser.zero_grad()
    return found


def same(one: list[tuple[dict[str, float], Tensor]], other: list[tuple[dict[str, float], Tensor]], tolerance: float = 2e-6) -> None:
    for (means, gradient), (other_means, other_gradient) in zip(one, other, strict=True):
        assert other_means == pytest.approx(means, rel=1e-5)
        assert float((gradient - other_gradient).norm()) <= tolerance * float(gradient.norm())


@pytest.mark.parametrize("problem", ["single-label", "multi-label"])
def test_disagreement_is_the_mean_of_both_divergences(problem: str) -> None:
    dice = torch.Generator().manual_seed(0)
    one, other = torch.randn(6, 4, generator=dice), torch.randn(6, 4, generator=dice)
    if problem == "single-label":
        logs, targets = (one.log_softmax(-1), other.log_softmax(-1)), torch.zeros(6, dtype=torch.int64)
    else:
        logs, targets = tuple(torch.stack([functional.logsigmoid(x), functional.logsigmoid(-x)]) for x in (one, other)), torch.zeros(6, 4)
    both = [functional.kl_div(*pair, reduction="sum", log_target=True) for pair in (logs, logs[::-1])]
    found = disagreement(one, other, targets)
    assert float(found.sum) == pytest.approx(float(sum(both)) / 2, rel=1e-5) and float(found.weight) == targets.numel()
    assert float(disagreement(one, one, targets).sum) == 0


def test_r_drop_is_split_like_any_loss(recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    """Every second pass answers in another way, as dropout would make it, but the same however the batch is cut."""
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    found = []
    for weight, split in [(3.0, SPLITS[0]), (3.0, SPLITS[1]), (0.0, SPLITS[0])]:
        data = recipe("run", {"data.split": {"test": 0}, "loss": {"type": "cross-entropy", "r_drop": weight}}, model=still_model, rows=rows)
        bench, passes = laid_out(data, *split), []

        def other_way(_: nn.Module, __: Any, output: Any, passes: list[int] = passes) -> Any:
            passes.append(1)
            output.logits = output.logits * (0.5 if len(passes) % 2 == 0 else 1.0)
            return output

        bench.parts["model"].module.register_forward_hook(other_way)
        found.append(gradients(bench, bench.losses))
    same(found[0], found[1])
    for means, _ in found[0]:
        assert means["r_drop"] > 1e-4 and means["total"] == pytest.approx(means["loss"] + means["r_drop"])
    assert all("r_drop" not in means for means, _ in found[2])


def test_r_drop_is_told_with_the_steps(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", EVERY_2 | {"loss": {"type": "cross-entropy", "r_drop": 1.0}})).path
    assert all(step["losses"]["r_drop"] > 0 for step in steps_of(run)[1:])


def test_the_average_worked_by_hand() -> None:
    module = nn.Linear(2, 1)
    averages = Averages(dict(module.named_parameters()), Moving(0.15))
    parts = {"model": Part(module), "ema": Part(averages, "ema")}
    values, expected = [4.0, 8.0, 2.0, 6.0], None
    for steps, value in enumerate(values):
        with torch.no_grad():
            module.weight.fill_(value)
        averages.update()
        stays = min(0.15, steps / (steps + 9))
        expected = value if expected is None else stays * expected + (1 - stays) * value
        with averaged(parts, SOME_OPTIMISER):
            assert module.weight.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-6)
        assert module.weight.flatten().tolist() == [value] * 2
    assert min(0.15, 1 / 10) == 0.1 and min(0.15, 3 / 12) == 0.15, "both the growing and the lasting share were seen"


def test_the_mean_of_steps_worked_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    averages = Averages(dict(module.named_parameters()), Stochastic(start=3, every=2))
    expected = [1.0, 2.0, 3.0, 3.0, (3 + 5) / 2, (3 + 5) / 2, (3 + 5 + 7) / 3]  # steps 3, 5 and 7 are taken in
    for value, mean in zip(range(1, 8), expected, strict=True):
        with torch.no_grad():
            module.weight.fill_(value)
        averages.update()
        with averaged({"ema": Part(averages, "ema")}, SOME_OPTIMISER):
            assert module.weight.item() == pytest.approx(mean, rel=1e-6)
        assert module.weight.item() == value


def test_the_saved_model_is_the_mean_of_the_chosen_steps(recipe: MakeRecipe) -> None:
    steps = {"training.max_steps": 8, "training.save_every": "1steps", "training.keep_checkpoints": 9, "evaluate.baseline": False}
    run = flow.train(recipe("run", steps | {"training.swa": {"start": "50%", "every": "2 steps"}})).path
    taken = [checkpoint_weights(run, step) for step in (4, 6, 8)]
    found = load_file(run / "model" / "model.safetensors")
    assert found.keys() == taken[0].keys()
    assert all(torch.allclose(found[name], sum(one[name] for one in taken) / 3, rtol=1e-5, atol=1e-7) for name in found)
    assert not torch.allclose(found["classifier.weight"], taken[-1]["classifier.weight"], rtol=1e-3)


def test_a_start_after_the_end_takes_the_last_weights(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", EVERY_2 | {"training.swa": {"start": "9 epochs", "every": "1 epoch"}, "training.max_steps": 4})).path
    found, last = load_file(run / "model" / "model.safetensors"), checkpoint_weights(run, 4)
    assert all(torch.equal(found[name], last[name]) for name in found)


def test_weights_are_left_alone_before_the_first_step() -> None:
    parts = {"model": Part(nn.Linear(2, 1))}
    add_averages(parts, Moving(0.9))
    module: Any = parts["model"].module
    with torch.no_grad():
        module.weight.fill_(3.0)
    with averaged(parts, SOME_OPTIMISER):
        assert module.weight.tolist() == [[3.0, 3.0]]


def test_the_saved_model_is_the_average_of_the_steps(recipe: MakeRecipe) -> None:
    steps = {"training.max_steps": 6, "training.save_every": "1steps", "training.keep_checkpoints": 9, "evaluate.baseline": False}
    run = flow.train(recipe("run", steps | {"training.ema": 0.3})).path
    expected: dict[str, Tensor] = {}
    for step in range(1, 7):
        stays = min(0.3, (step - 1) / (step + 8))
        now = checkpoint_weights(run, step)
        expected = {name: (stays * expected[name] + (1 - stays) * now[name]) if expected else now[name] for name in now}
    found = load_file(run / "model" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-7) for name in found)
    assert not torch.allclose(found["classifier.weight"], now["classifier.weight"], rtol=1e-3)


def test_the_average_is_what_is_scored_and_kept(recipe: MakeRecipe) -> None:
    changes = {"training.max_steps": 8, "training.eval_every": "2steps", "data.split": {"validation": 0.2, "test": 0.2}}
    averaged_run = flow.train(recipe("run", changes | {"training.ema": 0.9})).path
    plain = flow.train(recipe("plain", changes | {"training.speed": {"row_embedding": False}})).path
    assert [step["loss"] for step in steps_of(averaged_run)] == [step["loss"] for step in steps_of(plain)], "training goes its way"
    metrics = files.read_json(averaged_run / "metrics.json")
    of_best = next(step for step in steps_of(averaged_run) if step["step"] == metrics["best_step"])
    assert metrics["scores"]["validation"]["accuracy"]["value"] == pytest.approx(of_best["scores"]["validation"]["accuracy"])
    tell = [[step["scores"]["validation"]["loss"] for step in steps_of(run) if step.get("scores")] for run in (averaged_run, plain)]
    assert len(tell[0]) == 4 and tell[0] != tell[1]


def test_noise_is_the_same_in_any_split_and_new_at_every_step(recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    data = recipe("run", {"data.split": {"test": 0}, "training.neftune": 3.0}, model=still_model, rows=rows)
    benches = [laid_out(data, *split) for split in SPLITS]
    first, *others = (gradients(bench, bench.losses) for bench in benches)
    for other in others:
        same(first, other)
    quiet = gradients(benches[0], benches[0].work)
    assert all(abs(noisy["total"] - still["total"]) > 1e-4 for (noisy, _), (still, _) in zip(first, quiet, strict=True))


def test_noise_has_the_size_that_was_asked_for(recipe: MakeRecipe) -> None:
    bench = laid_out(recipe("run", {"training.neftune": 3.0}), 8, 1)
    batch, seen = next(iter(bench.saved.source))[0], []
    module = Words.of(bench.parts).module
    for work in (bench.work, bench.losses):
        hook = bench.parts["model"].module.bert.embeddings.LayerNorm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        work.losses(bench.parts, batch)
        hook.remove()
    noise_BTH = (seen[1] - seen[0]).detach()
    assert not module._forward_hooks, "no hook is left behind"
    lengths_B, width = batch.inputs["attention_mask"].sum(1), noise_BTH.shape[-1]
    for noise_TH, length in zip(noise_BTH, lengths_B.tolist(), strict=True):
        most = 3.0 / np.sqrt(length * width)
        assert 0.9 * most < float(noise_TH.abs().max()) <= 1.001 * most and not noise_TH[length:].any()


def test_the_pull_worked_by_hand() -> None:
    pulled, free = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.SGD([pulled, free], lr=0.1)
    optimiser.register_step_post_hook(Pull([pulled], 2.0))
    pulled.grad, free.grad = torch.tensor([-10.0]), torch.tensor([-10.0])
    optimiser.step()
    assert free.item() == pytest.approx(2.0) and pulled.item() == pytest.approx(2.0 - 0.1 * 2.0 * 1.0)


def test_an_endless_pull_leaves_only_new_weights_changed(recipe: MakeRecipe, tiny_model: Path) -> None:
    run = flow.train(recipe("run", EVERY_2 | {"training.l2_sp": 1e12})).path
    found, start = load_file(run / "model" / "model.safetensors"), load_file(tiny_model / "model.safetensors")
    assert sum(f"bert.{name}" in found for name in start) > 30
    assert all(torch.equal(found[f"bert.{name}"], tensor) for name, tensor in start.items() if f"bert.{name}" in found)
    assert found["classifier.weight"].abs().max() > 0.01


def test_smart_worked_by_hand() -> None:
    """Scores are the mean of a text's words, so the two words are moved alike, along the difference of the two scores."""

    class Means:
        passes = 0

        def weights(self, batch: Batch) -> dict[str, float]:
            return {"loss": 1.0, "smart": 1.0}

        def scores(self, parts: Any, batch: Batch) -> Tensor:
            self.passes += 1
            return parts["model"].module(batch.inputs["input_ids"]).mean(1)

        def losses_and_scores(self, parts: Any, batch: Batch) -> Any:
            scores = self.scores(parts, batch)
            return {"loss": Term(scores.sum() * 0, torch.tensor(1.0))}, scores

        def apart(self, one: Tensor, other: Tensor, batch: Batch) -> Any:
            return disagreement(one, other, torch.zeros(1, dtype=torch.int64))

    module, work = nn.Embedding.from_pretrained(torch.tensor([[0.5, 0.0], [0.3, 0.2]]), freeze=False), Means()
    module.get_input_embeddings = lambda: module  # type: ignore[assignment]
    parts, batch = {"model": Part(module)}, Batch([7], {"input_ids": torch.tensor([[0, 1]])})
    smooth = Smooth(work, Words.of(parts), Ascent(1.0, 1.0), steps=4, weight=2.0, seed=0, state=TrainingState())
    term = smooth.losses(parts, batch)["smart"]
    ends = [torch.tensor([[0.4 + half, 0.1 - half]]) for half in (-0.5, 0.5)]  # a move of length 1 over four numbers: 1/2 each
    steepest = [float(disagreement(torch.tensor([[0.4, 0.1]]), end, torch.zeros(1)).sum) for end in ends]
    assert float(term.sum.detach()) in [pytest.approx(value, rel=1e-3) for value in steepest], "the start decides which way"
    assert term.coefficient == 2.0 and work.passes == 6
    term.sum.backward()
    assert module.weight.grad is not None and module.weight.grad.abs().min() > 0, "a path by way of both answers"
    assert not module._forward_hooks, "no hook is left behind"


def test_smart_is_split_like_any_loss(recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    loss = {"loss": {"type": "cross-entropy", "smart": {"weight": 3.0, "epsilon": 0.5, "steps": 2}}}
    data = recipe("run", {"data.split": {"test": 0}, **loss}, model=still_model, rows=rows)
    benches = [laid_out(data, *split) for split in SPLITS]
    first, *others = (gradients(bench, bench.losses) for bench in benches)
    for other in others:
        same(first, other, 1e-5)  # a move goes by how far answers are apart, which magnifies their rounding
    for means, _ in first:
        assert means["smart"] > 1e-5 and means["total"] == pytest.approx(means["loss"] + means["smart"])
    bench = laid_out(data, *SPLITS[0])
    plain = gradients(bench, bench.work)
    assert all(smart["loss"] == pytest.approx(still["loss"], rel=1e-6) for (smart, _), (still, _) in zip(first, plain, strict=True))


def test_smart_and_stored_states_exclude_each_other(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    flow.train(recipe("run", {"model.freeze": 1, "loss": {"type": "cross-entropy", "smart": {}}, "training.max_steps": 2}))
    assert "no prefix cache: texts are moved in the word embeddings (loss.smart)" in caplog.text


class Bowl:
    """The squares of what the layer gives, summed: its gradient is known."""

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"loss": 1.0}

    def losses(self, parts: Any, batch: Batch) -> Any:
        self.seen = parts["model"].module.weight.detach().clone()
        return {"loss": Term(parts["model"].module(batch.inputs["x"]).square().sum(), torch.tensor(1.0))}


def test_mixout_worked_by_hand() -> None:
    module, batch, work = nn.Linear(40, 40, bias=False), Batch([7], {"x": torch.ones(1, 40)}), Bowl()
    parts = {"model": Part(module)}
    rule = Mixout(step_rules.get("sam")(rho=0.01), starts_of(parts, frozenset()), 0.25, seed=3, state=TrainingState(step=5))
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    now, seen = module.weight.detach().clone(), []
    for state in (TrainingState(step=5), TrainingState(step=6), TrainingState(step=5)):
        plain = replace(rule, rule=step_rules.get("accumulate")(), state=state)
        module.zero_grad()
        plain.gradient(work, parts, [batch], nullcontext())
        back = torch.isclose(work.seen, before, atol=1e-6)
        assert torch.allclose(work.seen[~back], before[~back] + 1 / 0.75, atol=1e-6) and 0.2 < back.float().mean() < 0.3
        slope = 2 * (work.seen @ torch.ones(40)).unsqueeze(1).expand(40, 40)  # of the mixed weights
        assert module.weight.grad is not None and torch.allclose(module.weight.grad, torch.where(back, 0.0, slope / 0.75), rtol=1e-5)
        assert torch.equal(module.weight, now), "the weights come back bit for bit"
        seen.append(back)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    rule.gradient(work, parts, [batch], nullcontext())
    assert torch.equal(module.weight, now), "around a rule that moves weights too"


def test_mixout_mixes_what_came_with_the_model(recipe: MakeRecipe) -> None:
    bench = laid_out(recipe("run", {"training.mixout": 0.1}), 8, 1)
    assert bench.starts is not None and len(bench.starts) == 13, "six matrices in each of two blocks, and the pooler's"
    assert all(not torch.equal(start.weight, start.before) for start in bench.starts), "the copies stay"
    with pytest.raises(ConfigError, match="training.mixout: mixes trained weights with pretrained ones, and no pretrained matrix"):
        flow.train(recipe("body", {"training.mixout": 0.1, "model.freeze": "body"}))


@pytest.mark.parametrize("key", ["ema", "l2_sp"])
def test_rows_that_are_moved_besides_are_not_left_out(key: str, recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "luthier"):
        flow.train(recipe("run", {"training.max_steps": 1, f"training.{key}": 0.5}))
    assert f"all rows of the word embedding are learnt (training.speed.row_embedding is off): training.{key}" in caplog.text


def test_noise_and_stored_states_exclude_each_other(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    flow.train(recipe("run", {"model.freeze": 1, "training.neftune": 5, "training.max_steps": 2}))
    assert "no prefix cache: the noise moves the word embeddings (training.neftune)" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.ema": 0.9, "training.parallel": "fsdp2"}, "training.ema: needs every weight in each process"),
        ({"training.ema": 1.0}, "training.ema"),
        ({"training.ema": 0.9, "training.swa": {}}, "training.swa: is one average of the weights"),
        ({"training.swa": {"every": 3}}, "training.swa.every"),
        ({"training.swa": {}, "training.parallel": "fsdp2"}, "training.swa: needs every weight in each process"),
        ({"training.neftune": -1}, "training.neftune"),
        ({"training.mixout": 0.1, "adapter": "lora"}, "training.mixout: mixes weights with pretrained ones"),
        ({"training.mixout": 1}, "training.mixout"),
        ({"training.l2_sp": 0.1, "adapter": "lora"}, "training.l2_sp: pulls weights back to pretrained ones"),
        (
            {"training.l2_sp": 0.1, "model.scratch": {"architecture": "gpt2"}, "model.tokenizer": "gpt2"},
            "training.l2_sp: pulls weights back to pretrained ones",
        ),
        ({"loss": {"type": "focal", "r_drop": -1}}, "loss.r_drop"),
        ({"loss": {"type": "focal", "smart": {"epsilon": 0}}}, "loss.smart.epsilon"),
        ({"loss": {"smart": {}}, "training.parallel": "fsdp2"}, "loss.smart: needs every weight in each process"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, changes)
    assert said in str(caught.value)


def test_a_checkpoint_holds_the_average(recipe: MakeRecipe) -> None:
    run = train_until(recipe("run", EVERY_2 | {"training.ema": 0.6}), 3)
    stored = load_file(run / "checkpoints" / "step-00000002" / "ema.safetensors")
    assert int(stored["steps"]) == 2 and "model/classifier/weight" in stored
