"""Several tasks on one trunk: they learn, are measured and saved apart, and stop and go on as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_tasks import two_tasks

from luthier import api, flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.layout.decide import require_one_process
from luthier.stages.layout.prefix import with_prefix
from luthier.training.world import World

TEXT = "my card was charged twice please refund"
Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A finished run of two tasks."""
    changes = {"training.max_steps": 60, "training.eval_every": "20steps", "training.save_every": "20steps"}
    return flow.train(two_tasks(tiny_model, tmp_path_factory.mktemp("several"), changes)).path


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Make:
    def made(name: str = "run", changes: dict[str, Any] | None = None) -> dict[str, Any]:
        return two_tasks(tiny_model, tmp_path, changes, name)

    return made


def bench_of(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def test_both_tasks_learn_and_are_measured(trained: Path) -> None:
    metrics = files.read_json(trained / "metrics.json")
    values = {name: metrics["tasks"][name]["scores"]["test"]["accuracy"]["value"] for name in ("subject", "money")}
    assert values["subject"] > 0.6 and values["money"] > 0.7, values
    assert metrics["scores"]["test"]["score"]["value"] == pytest.approx(np.mean(list(values.values())))
    assert metrics["task"] == "several-tasks" and metrics["steps"] == 60


def test_every_step_is_of_one_task_and_validation_has_both(trained: Path) -> None:
    ticks = [line for line in files.read_json_lines(trained / "events.jsonl") if "loss" in line]
    told = [set(tick["losses"]) for tick in ticks]
    assert {"subject"} in told and {"money"} in told and all(len(names) == 1 for names in told)
    scores = next(tick["scores"]["validation"] for tick in ticks if tick.get("scores"))
    assert scores["score"] == pytest.approx((scores["subject/accuracy"] + scores["money/accuracy"]) / 2)


def test_each_task_loads_in_plain_transformers_and_shares_the_trunk(trained: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    models = {name: AutoModelForSequenceClassification.from_pretrained(trained / "model" / name).eval() for name in ("subject", "money")}
    assert models["subject"].config.num_labels == 3 and models["money"].config.num_labels == 2
    states = [model.bert.state_dict() for model in models.values()]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    for name, model in models.items():
        line = files.read_json_lines(trained / "tasks" / name / "reference.jsonl")[0]
        tokens = AutoTokenizer.from_pretrained(trained / "model" / name)(line["text"], return_tensors="pt")
        with torch.no_grad():
            assert model(**tokens).logits[0].tolist() == pytest.approx(line["logits"], abs=1e-4)


def test_a_task_is_a_run_of_its_own_for_the_next_verb(trained: Path) -> None:
    assert set(next(flow.predict(trained / "tasks" / "subject", [TEXT])).probabilities) == {"delivery", "payment", "login"}
    answer = api.load(trained).task("money").predict([TEXT])[0]
    assert set(answer.probabilities) == {"payment", "login"}
    stored = files.read_json(trained / "metrics.json")["tasks"]
    again = flow.evaluate(trained)["tasks"]
    for name in ("subject", "money"):
        assert again[name]["scores"]["test"]["accuracy"] == stored[name]["scores"]["test"]["accuracy"]
        page = (trained / "tasks" / name / "report.html").read_text(encoding="utf-8")
        assert "Result" in page
    for page in ("report.html", "card.md"):
        text = (trained / page).read_text(encoding="utf-8")
        assert "tasks/subject/" in text and "tasks/money/" in text and "Mean of the tasks" in text


def test_the_task_has_to_be_named(trained: Path) -> None:
    with pytest.raises(ConfigError, match="several tasks") as caught:
        Predictor.open(trained)
    assert "subject, money" in str(caught.value) and "tasks/subject" in str(caught.value)
    with pytest.raises(ConfigError, match="several tasks"):
        flow.evaluate(trained, data="more.csv")
    with pytest.raises(ConfigError, match="no task 'mony'") as caught:
        api.load(trained).task("mony")
    assert "money" in str(caught.value)


def test_the_command_line_answers_and_scores_by_task(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from luthier.cli.main import main

    assert main(["predict", str(trained), "--as", "money", TEXT]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["label"] in ("payment", "login")
    assert main(["predict", str(trained), TEXT]) == 2
    assert "--as" in capsys.readouterr().err
    assert main(["evaluate", str(trained), "--as", "subject", "--json"]) == 0
    assert "accuracy" in json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["test"]
    assert main(["runs", str(trained.parent)]) == 0
    assert "subject test" in capsys.readouterr().out
    assert main(["merge", str(trained)]) == 2
    assert "several tasks" in capsys.readouterr().err
    assert main(["evaluate", str(trained), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]) == {"subject", "money"}


def test_the_trunk_is_there_once(make: Make) -> None:
    bench = bench_of(make())
    module: Any = bench.parts["model"].module
    assert module.tasks["subject"].bert is module.tasks["money"].bert is module.trunk
    names = [name for name, _ in module.named_parameters()]
    assert sum(name.startswith("trunk.") for name in names) == len(list(module.trunk.parameters()))
    assert {name for name in names if not name.startswith("trunk.")} == {
        f"tasks.{task}.classifier.{kind}" for task in ("subject", "money") for kind in ("weight", "bias")
    }
    assert {name for name in bench.new if not name.startswith("trunk.")} == {name for name in names if "classifier" in name}


def test_a_weight_scales_the_gradient_of_its_task(make: Make) -> None:
    def gradient(weight: float) -> torch.Tensor:
        recipe = make(f"weight-{weight}", {"training.speed": {"lean_blocks": False}})
        recipe["tasks"][1]["weight"] = weight
        bench = bench_of(recipe)
        bench.parts["model"].module.eval()
        window = next(iter(bench.saved.source))
        while window[0].task != "money":
            window = next(iter(bench.saved.source))
        term = bench.work.losses(bench.parts, window[0])["money"]
        (term.coefficient * term.sum / term.weight).backward()
        found = bench.parts["model"].module.tasks["money"].classifier.weight.grad
        assert found is not None
        return found

    assert torch.allclose(gradient(3.0), 3 * gradient(1.0), rtol=1e-5, atol=1e-8)


def test_one_head_stays_as_it_is_while_the_other_learns(make: Make) -> None:
    bench = bench_of(make("run", {"mixing": {"sampling": "round-robin"}}))
    module: Any = bench.parts["model"].module
    window = next(iter(bench.saved.source))
    assert {batch.task for batch in window} == {"subject"} and all(id_ < 10**12 for id_ in window[0].ids)
    bench.work.losses(bench.parts, window[0])["subject"].sum.backward()
    assert module.tasks["subject"].classifier.weight.grad is not None
    assert module.tasks["money"].classifier.weight.grad is None
    assert any(parameter.grad is not None for parameter in module.trunk.parameters())


def test_uncertainty_weighs_each_loss_by_its_log_variance(make: Make) -> None:
    plain, weighed = bench_of(make("plain")), bench_of(make("weighed", {"mixing": {"weights": "uncertainty"}}))
    window = next(iter(plain.saved.source))
    name = str(window[0].task)
    for bench in (plain, weighed):
        bench.parts["model"].module.eval()
    log_variances: Any = weighed.parts["model"].module.log_variances
    assert {f"log_variances.{task}" for task in ("subject", "money")} < weighed.new
    with torch.no_grad():
        log_variances[name].fill_(0.6)
    before = plain.work.losses(plain.parts, window[0])[name]
    terms = weighed.work.losses(weighed.parts, window[0])
    weights = weighed.work.weights(window[0])
    assert set(terms) == set(weights) == {name, f"{name}/uncertainty"}
    total = sum(term.coefficient * term.sum / weights[key] for key, term in terms.items())
    loss = float(before.sum.detach() / before.weight)
    assert isinstance(total, torch.Tensor)
    assert float(total.detach()) == pytest.approx(np.exp(-0.6) * loss + 0.3, rel=1e-4)
    total.backward()
    assert float(log_variances[name].grad) == pytest.approx(0.5 - np.exp(-0.6) * loss, rel=1e-3)
    assert log_variances["money" if name == "subject" else "subject"].grad is None


def test_log_variances_are_learnt_and_kept_in_checkpoints_but_not_in_models(make: Make) -> None:
    from safetensors.torch import load_file

    changes = {"mixing": {"weights": "uncertainty"}, "optim.rates": {"log_variances": 0.05}, "evaluate.baseline": False}
    run = flow.train(make("run", changes)).path
    kept = load_file(run / "checkpoints" / "step-00000020" / "model.safetensors")
    learnt = {name: float(tensor) for name, tensor in kept.items() if name.startswith("log_variances.")}
    assert set(learnt) == {"log_variances.subject", "log_variances.money"} and all(abs(value) > 0.05 for value in learnt.values()), learnt
    assert not any("log_variances" in name for name in load_file(run / "model" / "money" / "model.safetensors"))


def test_an_adapter_that_cannot_be_merged_is_refused_at_the_start(make: Make) -> None:
    with pytest.raises(ConfigError, match="LILY is no change of weights"):
        bench_of(make("run", {"adapter": {"type": "peft", "method": "LILY", "r": 4}}))


@pytest.mark.parametrize("adapter", [{"type": "lora", "r": 4}, {"type": "ia3"}, {"type": "vera", "r": 8}, {"type": "layernorm"}], ids=str)
def test_an_adapter_is_merged_into_the_body(adapter: dict[str, Any], make: Make) -> None:
    run = flow.train(make("run", {"adapter": adapter})).path
    metrics = files.read_json(run / "metrics.json")
    assert metrics["parameters"]["adapter"] > 0 and metrics["parameters"]["head"] == (3 + 2) * 33
    assert not list((run / "model").rglob("adapter*"))
    for name in ("subject", "money"):
        lines = files.read_json_lines(run / "tasks" / name / "reference.jsonl")
        outputs = Predictor.open(run / "tasks" / name).outputs([line["text"] for line in lines])
        assert np.abs(outputs.logits_BC - [line["logits"] for line in lines]).max() <= 1e-5


def test_the_last_block_computes_what_the_heads_read(make: Make) -> None:
    def first_only(head: dict[str, Any] | None) -> bool:
        recipe = make("run")
        recipe["tasks"][1]["head"] = head
        bench = bench_of(recipe)
        return bool(bench.parts["model"].module.trunk.encoder.layer[-1].forward.first_only)

    assert first_only(None) and not first_only({"pooling": "mean"})


def test_going_on_with_the_same_recipe_and_no_other(make: Make) -> None:
    training = flow.Training.begin(make("again", {"training.max_steps": 2, "evaluate.baseline": False}))
    list(training)
    same = flow.Training.begin(make("again", {"training.max_steps": 2, "evaluate.baseline": False}), again=True)
    assert same.metrics is not None and same.metrics["steps"] == 2
    other = make("again", {"training.max_steps": 2, "evaluate.baseline": False})
    other["tasks"][1]["weight"] = 2
    with pytest.raises(ConfigError, match=r"tasks\.money\.weight"):
        flow.Training.begin(other, again=True)
    other["tasks"].append({**other["tasks"][0], "name": "third"})
    with pytest.raises(ConfigError, match="third"):
        flow.Training.begin(other, again=True)


WITH_OTHER_MEANS: dict[str, dict[str, Any]] = {
    "lower layers frozen": {"model.freeze": 1},
    "heads alone": {"model.freeze": "body"},
    "biases": {"model.train": "bitfit"},
    "unfreezing": {"unfreeze": {"type": "gradual", "every": "1 steps"}},
    "rates of layers": {"optim.layer_decay": 0.8},
    "moved words": {"training.step_rule": "fgm"},
    "flat minima": {"training.step_rule": "sam"},
    "noise": {"training.neftune": 5},
    "pull": {"training.l2_sp": 0.01},
    "muon": {"optim": {"type": "muon", "learning_rate": 0.003, "head_learning_rate": 0.003}},
    "adafactor": {"optim": {"type": "adafactor", "learning_rate": 0.01, "head_learning_rate": 0.01}},
    "batches by tokens": {"training.batch_tokens": 80},
    "workers": {"training.num_workers": 1},
    "r-drop": {"training.gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("case", WITH_OTHER_MEANS)
def test_other_means_go_with_several_tasks(case: str, make: Make) -> None:
    recipe = make("run", {"training.max_steps": 4, "evaluate.baseline": False, **WITH_OTHER_MEANS[case]})
    if case == "r-drop":
        recipe["tasks"][1]["loss"] = {"type": "cross-entropy", "r_drop": 1.0}
        recipe["tasks"][0]["data"]["augment"] = ["word-swap"]
    before = {name: p.detach().clone() for name, p in bench_of(recipe).parts["model"].module.named_parameters() if p.requires_grad}
    run = flow.train(recipe).path
    ticks = [line for line in files.read_json_lines(run / "events.jsonl") if "loss" in line]
    assert len(ticks) == 4 and all(np.isfinite(tick["loss"]) and not tick.get("skipped") for tick in ticks)
    assert ("money/r_drop" in set().union(*(tick["losses"] for tick in ticks))) == (case == "r-drop")
    assert any(name.startswith("trunk.") for name in before) == (case != "heads alone")


def test_frozen_layers_are_not_stored_which_is_said(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_of(make("run", {"model.freeze": 1}))
    with caplog.at_level("WARNING", logger="luthier"):
        assert with_prefix(bench)[0] is bench
    assert "no prefix cache: it is there for one task only" in caplog.text


def test_several_processes_are_refused(make: Make) -> None:
    class Two:
        size = 2

    with pytest.raises(ConfigError, match="several tasks do not go with 2 processes"):
        require_one_process(resolve(make()), cast(World, Two()))


def test_the_best_step_goes_by_the_mean_or_by_one_score_of_one_task(make: Make) -> None:
    mean, single = bench_of(make()), bench_of(make("single", {"training.best_metric": "money/loss"}))
    assert (mean.plan.metric, mean.plan.greater_is_better) == ("score", True)
    assert (single.plan.metric, single.plan.greater_is_better) == ("money/loss", False)


def test_early_stopping_goes_by_the_mean(make: Make) -> None:
    changes = {"training.early_stopping": {"patience": 1, "min_delta": 0.99}, "training.eval_every": "3steps", "evaluate.baseline": False}
    run = flow.train(make("run", changes)).path
    metrics = files.read_json(run / "metrics.json")
    assert metrics["stopped_early"] and metrics["steps"] == 6 and metrics["best_step"] == 3


def test_the_rates_are_drawn(make: Make, tmp_path: Path) -> None:
    found = flow.draw_schedule(make(), picture=tmp_path / "rates.svg")
    assert found["steps"] == 20 and (tmp_path / "rates.svg").is_file()


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        (lambda r: r["tasks"][1].update(name="subject"), "another task is called 'subject'", "subject-2"),
        (lambda r: r.update(task="text-classification"), "stands beside tasks", "leave tasks out"),
        (lambda r: r.update(data="rows.csv"), "stands beside tasks", "leave tasks out"),
        (lambda r: r.update(tasks=r["tasks"][:1]), "two tasks or more", "task, data and loss"),
        (lambda r: r["tasks"][0].update(nam="x"), "unknown key", "name"),
        (lambda r: r["tasks"][0].update(name="a/b"), "got 'a/b'", "letters"),
        (lambda r: r["tasks"][0].update(loss="cross-entropi"), "unknown loss", "cross-entropy"),
        (lambda r: r["tasks"][0].pop("data"), "is required", "training rows"),
        (lambda r: r["training"].update(batch_size="auto"), "auto does not go with several tasks", "batch_size=32"),
        (lambda r: r["training"].update(best_metric="mony/accuracy"), "unknown score", "money/accuracy"),
        (lambda r: r["model"].update(extend_vocabulary=True), "teach the tokenizer", "extend_vocabulary=false"),
        (lambda r: r.update(adapter="prompt-tuning"), "virtual tokens", "lora"),
        (lambda r: r.update(mixing={"sampling": "random"}), "got 'random'", "proportional"),
    ],
)
def test_what_does_not_go_is_said(change: Callable[[dict[str, Any]], Any], said: str, fix: str, make: Make) -> None:
    recipe = make()
    change(recipe)
    with pytest.raises(ConfigError) as caught:
        resolve(recipe)
    assert said in str(caught.value) and fix in str(caught.value), caught.value


def test_mixing_wants_several_tasks(recipe: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="mixes several tasks"):
        resolve(recipe("run", {"mixing": {"sampling": "equal"}}))


def test_a_range_test_has_steps_of_every_task(make: Make, tmp_path: Path) -> None:
    found = flow.find_rate(make(), folder=tmp_path / "rates", steps=20)
    assert found["steps"] > 5 and 0 < found["rate"] < 1 and (tmp_path / "rates" / "find-lr.svg").is_file()


def test_a_plan_counts_the_trunk_once_and_the_rows_of_every_task(make: Make) -> None:
    recipe = make("run", {"training.speed": {"row_embedding": False}})
    found, bench = flow.plan(recipe), bench_of(recipe)
    every = sum(parameter.numel() for parameter in bench.parts["model"].module.parameters())
    assert found["parameters"]["all"] == every and found["rows"] == len(bench.prepared.splits["train"])
    assert found["steps"] == bench.pace.total_steps and found["machines"][0]["seconds"]["total"] > 0
    with pytest.raises(ConfigError, match="plan --assume takes one task"):
        flow.plan(make(), assume=(100, 20))


def test_validation_rows_are_all_or_none(make: Make) -> None:
    recipe = make()
    recipe["tasks"][1]["data"]["split"] = {"test": 0.2}
    with pytest.raises(DataError, match="'money' has no validation rows") as caught:
        flow.prepare(resolve(recipe))
    assert "tasks.money.data.split.validation=0.1" in str(caught.value)


def test_a_key_of_a_task_is_changed_by_its_name_or_number(make: Make) -> None:
    recipe = make()
    changed = resolve(recipe, {"tasks.money.weight": 2.5, "tasks.0.data.max_length": 24})
    assert changed.tasks is not None
    assert [entry.weight for entry in changed.tasks] == [1.0, 2.5] and changed.tasks[0].data.max_length == 24
    assert resolve(changed.as_dict()) == changed
    assert "weight" not in recipe["tasks"][1]
    with pytest.raises(ConfigError, match="no task 'mony'"):
        resolve(recipe, {"tasks.mony.weight": 2.5})
