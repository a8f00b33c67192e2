"""A sweep: what it tries, what it refuses, how it ends trials early, and that it goes on where it stopped."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier import flow
from luthier.core import files, yaml
from luthier.core.errors import ConfigError, RunStopped
from luthier.workflows.sweep.section import read_sweep
from luthier.workflows.sweep.space import Range, in_order, read_space
from luthier.workflows.sweep.sweep import Share, Sweep, sweep
from luthier.workflows.sweep.workers import Workers

pytest.importorskip("optuna")
MakeSweep = Callable[..., dict[str, Any]]
QUICK = {
    "optim.head_learning_rate": "auto",
    "training.max_steps": 4,
    "training.batch_size": 16,
    "model.head": {"start": "zero"},
    "evaluate.resamples": 100,
}
RATES = {"optim.learning_rate": [1e-9, 1e-2]}


@pytest.fixture
def make(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> MakeSweep:
    """Make a sweep file's content: `make({"optim.learning_rate": [...]}, sampler="grid")`."""

    def made(space: dict[str, Any], changes: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
        base = recipe(changes={**QUICK, "data.split": {"validation": 0.2, "test": 0.2}, **(changes or {})})
        return {"recipe": base, "space": space, "output": str(tmp_path / "sweep"), "pruner": "none", **keys}

    return made


def validation_score(run: str) -> float:
    return float(files.read_json(Path(run) / "metrics.json")["scores"]["validation"]["accuracy"]["value"])


def steps_of(run: str) -> list[int]:
    return [event["step"] for event in files.read_json_lines(Path(run) / "events.jsonl") if "tokens" in event]


# ---- what is tried


def test_a_grid_tries_every_combination_and_the_best_recipe_does_it_again(make: MakeSweep, tmp_path: Path) -> None:
    found = sweep(make({**RATES, "training.seed": [3, 4]}, {"training.max_steps": 30}, sampler="grid"))
    tried = [(trial["values"]["optim.learning_rate"], trial["values"]["training.seed"]) for trial in found["trials"]]
    assert tried == [(1e-9, 3), (1e-9, 4), (1e-2, 3), (1e-2, 4)]
    assert found["counts"] == {"complete": 4, "pruned": 0, "failed": 0, "unfinished": 0}
    assert all(trial["score"] == validation_score(trial["run"]) for trial in found["trials"])
    best = found["best"]
    assert best["score"] == max(trial["score"] for trial in found["trials"]) > found["trials"][0]["score"]
    assert best["values"]["optim.learning_rate"] == 1e-2 and set(best["scores"]) == {"validation", "test"}
    assert not list((tmp_path / "sweep").rglob("checkpoints")), "checkpoints of ended trials are removed"
    assert found["importance"]["optim.learning_rate"] > found["importance"]["training.seed"]
    assert "<svg" in (tmp_path / "sweep" / "importance.svg").read_text(encoding="utf-8")
    again = flow.train(best["recipe"], changes={"output": str(tmp_path / "again")})
    assert validation_score(str(again.path)) == best["score"]
    assert files.read_json(tmp_path / "sweep" / "sweep.json") == found


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_samplers_stay_within_the_ranges(make: MakeSweep, sampler: str) -> None:
    space = {"optim.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}, "training.batch_size": {"low": 8, "high": 24}}
    found = sweep(make(space, {"training.max_steps": 2}, sampler=sampler, trials=5))
    rates = [trial["values"]["optim.learning_rate"] for trial in found["trials"]]
    sizes = [trial["values"]["training.batch_size"] for trial in found["trials"]]
    assert len(set(rates)) == 5 and all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert all(isinstance(size, int) and 8 <= size <= 24 for size in sizes)
    assert found["counts"]["complete"] == 5


def test_a_list_may_hold_whole_sections() -> None:
    changes = in_order({"optim.weight_decay": 0.1, "optim": {"momentum": 0.9, "type": "sgd"}, "adapter": None})
    assert changes == [("optim.type", "sgd"), ("optim.momentum", 0.9), ("adapter", None), ("optim.weight_decay", 0.1)]
    assert in_order({"optim.learning_rate": 1, "optim.type": "sgd"})[0] == ("optim.type", "sgd")


def test_sections_are_tried_as_a_whole(make: MakeSweep) -> None:
    optims = [{"type": "adamw", "learning_rate": 1e-3}, {"type": "sgd", "learning_rate": 1e-2, "momentum": 0.5}]
    found = sweep(make({"optim": optims}, {"training.max_steps": 2}, sampler="grid"))
    assert [trial["values"]["optim"] for trial in found["trials"]] == optims
    recipes = [yaml.load_file(Path(trial["run"]) / "recipe.yaml")["optim"] for trial in found["trials"]]
    assert recipes[0]["type"] == "adamw" and recipes[1]["type"] == "sgd" and recipes[1]["momentum"] == 0.5


def test_without_validation_rows_some_are_held_out_and_it_is_said(make: MakeSweep, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("luthier").propagate = True
    with caplog.at_level(logging.INFO, logger="luthier"):
        plan = read_sweep(make(RATES, {"data.split": {"test": 0.25}}), {})
    assert plan.base["data"]["split"]["validation"] == 0.1
    assert "10 % of the training rows are held out" in caplog.text


# ---- what is refused


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"space": {"optim.learning_rte": [1e-4], "training.batchsize": [8]}}, ["learning_rate", "batch_size", "2 faults"]),
        ({"space": {"optm.learning_rate": [1e-4]}}, ["optm", "did you mean 'optim'"]),
        ({"space": {"optim.learning_rate": [1e-4, "fast"]}}, ["optim.learning_rate", "fast"]),
        ({"space": {"optim.learning_rate": {"low": 1, "high": 0.1}}}, ["space.optim.learning_rate", "high must be more"]),
        ({"space": {"optim.learning_rate": {"low": 0, "high": 0.1, "log": True}}}, ["wanted more than 0"]),
        ({"space": {"optim.learning_rate": {"lowest": 0.1, "high": 1}}}, ["lowest", "did you mean 'low'"]),
        ({"space": {"optim.learning_rate": 1e-4}}, ["write a list of values"]),
        ({"space": {}}, ["space", "wanted keys of the recipe"]),
        ({"space": {"data.split.validation": [0.1, 0.2]}}, ["same validation rows"]),
        ({"space": {"data.test": ["a.csv"]}}, ["never looks at the test rows"]),
        ({"metric": "acuracy"}, ["unknown score 'acuracy'", "accuracy"]),
        ({"sampler": "tpee"}, ["sampler", "tpe"]),
        ({"trails": 3}, ["trails", "did you mean 'trials'"]),
        ({"sampler": "grid", "space": {"optim.learning_rate": {"low": 0.1, "high": 1}}}, ["a grid needs lists"]),
        ({"sampler": "cmaes"}, ["cmaes moves numbers alone", "two keys or more"]),
        ({"trials": 0}, ["trials"]),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_is_trained(
    make: MakeSweep, tmp_path: Path, keys: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        Sweep.begin({**make(RATES), **keys})
    assert all(words in str(error.value) for words in said), str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_a_folder_with_another_sweep_is_refused(make: MakeSweep, tmp_path: Path) -> None:
    Sweep.begin(make(RATES))
    with pytest.raises(ConfigError, match="space: .*in the sweep that was begun"):
        Sweep.begin(make({"optim.learning_rate": [1e-3]}))
    Sweep.begin(make(RATES, trials=7, hours=1))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no sweep"):
        Sweep.begin({**make(RATES), "output": str(tmp_path / "taken")})


def test_ranges_are_whole_numbers_where_their_ends_are() -> None:
    space, faults = read_space({"training.batch_size": {"low": 2, "high": 4}, "optim.learning_rate": {"low": 1, "high": 2.0}})
    assert not faults and isinstance(space["training.batch_size"], Range)
    assert isinstance(space["training.batch_size"].low, int) and isinstance(space["optim.learning_rate"].high, float)


# ---- trials that do not end well


def test_failed_trials_are_counted_and_named(make: MakeSweep) -> None:
    found = sweep(make({"loss": ["binary-cross-entropy", "cross-entropy"]}, sampler="grid"))
    assert found["counts"] == {"complete": 1, "pruned": 0, "failed": 1, "unfinished": 0}
    failed, well = found["trials"]
    assert failed["state"] == "failed" and "does not fit a single-label problem" in failed["error"] and failed["score"] is None
    assert found["best"]["trial"] == well["trial"] and well["error"] is None


def test_a_sweep_whose_first_trials_all_fail_stops(make: MakeSweep) -> None:
    with pytest.raises(RunStopped, match=r"(?s)all of the first 3 trials failed.*does not fit a single-label problem"):
        sweep(make({"loss": ["binary-cross-entropy"], "training.seed": [0, 1, 2, 3]}, sampler="grid"))


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_trials_that_are_behind_end_early(make: MakeSweep, pruner: str) -> None:
    space = {"optim.learning_rate": [1e-2, 1e-9], "training.seed": [0, 1, 2]}
    changes = {"training.max_steps": 24, "training.eval_every": "8 steps"}
    found = sweep(make(space, changes, sampler="grid", pruner=pruner))
    slow = [trial for trial in found["trials"] if trial["values"]["optim.learning_rate"] == 1e-9]
    assert any(trial["state"] == "pruned" for trial in slow), found["trials"]
    for trial in found["trials"]:
        steps = steps_of(trial["run"])
        assert steps[-1] == 8 * len(trial["scores_while_training"])
        assert (steps[-1] < 24) == (trial["state"] == "pruned")
    assert found["best"]["values"]["optim.learning_rate"] == 1e-2


# ---- going on


def test_a_sweep_that_was_dropped_goes_on_in_the_same_trial(make: MakeSweep, tmp_path: Path) -> None:
    space, changes = {"optim.learning_rate": [1e-3, 1e-2]}, {"training.max_steps": 10, "training.save_every": "2 steps"}
    whole = sweep(make(space, changes, sampler="grid", output=str(tmp_path / "whole")))
    trials = iter(Sweep.begin(make(space, changes, sampler="grid")))
    for _ in next(trials):
        pass
    ticks = iter(next(trials))
    assert [next(ticks).step for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    ticks.close()  # type: ignore[attr-defined]
    trials.close()  # type: ignore[attr-defined]
    begun = Sweep.begin(make(space, changes, sampler="grid"))
    left = iter(begun)
    trial = next(left)
    assert trial.number == 1 and [tick.step for tick in trial][0] == 7, "the checkpoint of step 6 was taken up"
    assert list(left) == []
    found = begun.findings()
    assert [trial["score"] for trial in found["trials"]] == [trial["score"] for trial in whole["trials"]]
    assert found["trials"][1]["scores_while_training"] == whole["trials"][1]["scores_while_training"]


def test_more_trials_are_added_and_none_is_picked_twice(make: MakeSweep) -> None:
    space = {"optim.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    quick = {"training.max_steps": 1}
    first = sweep(make(space, quick, sampler="random", trials=2))
    more = sweep(make(space, quick, sampler="random", trials=4))
    assert more["trials"][:2] == first["trials"] and len({trial["values"]["optim.learning_rate"] for trial in more["trials"]}) == 4


def test_no_trial_goes_on_after_the_time(make: MakeSweep) -> None:
    found = sweep(make(RATES, {"training.max_steps": 50}, sampler="grid", hours=1e-4))
    assert found["counts"]["unfinished"] == 1 and len(found["trials"]) == 1 and found["best"] is None
    assert found["seconds"] > 0
    found = sweep(make(RATES, {"training.max_steps": 50}, sampler="grid", hours=1))
    assert found["counts"] == {"complete": 2, "pruned": 0, "failed": 0, "unfinished": 0}


# ---- several processes


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe"])
def test_processes_share_the_trials_of_one_storage(make: MakeSweep, sampler: str) -> None:
    tried: Any = [1e-4, 1e-3, 1e-2] if sampler == "grid" else {"low": 1e-4, "high": 1e-2, "log": True}
    content = make({"optim.learning_rate": tried}, {"training.max_steps": 1}, sampler=sampler, trials=3, workers=2)
    plans = [read_sweep(content, {}) for _ in range(2)]
    pair = [iter(Sweep(plan, Share(place, 2, []))) for place, plan in enumerate(plans)]
    first, second = (next(one) for one in pair)
    for one in (first, second):
        for _ in one:
            pass
    rest = [trial for one in pair for trial in one if [tick.step for tick in trial]]
    assert [first.number, second.number, *(trial.number for trial in rest)] == [0, 1, 2], "each once, and none too many"
    rates = {trial.values["optim.learning_rate"] for trial in (first, second, *rest)}
    assert len(rates) == 3, "each process draws values of its own"


def test_a_trial_under_way_is_taken_up_by_one_process(make: MakeSweep) -> None:
    content = make({"training.seed": [0, 1]}, sampler="grid", workers=2)
    begun = iter(Sweep.begin(content))
    ticks = iter(next(begun))
    next(ticks)
    ticks.close()  # type: ignore[attr-defined]
    begun.close()  # type: ignore[attr-defined]
    plan = read_sweep(content, {})
    mine, other = (Sweep(plan, Share(place, 2, [0] if place else [])) for place in (0, 1))
    assert [trial.number for trial in mine if list(trial)] == [1]
    assert [trial.number for trial in other if list(trial)] == [0]
    assert other.findings()["counts"]["complete"] == 2


@pytest.mark.slow
def test_workers_do_a_sweep_together(make: MakeSweep, tmp_path: Path) -> None:
    content = make({"training.seed": [0, 1, 2], "optim.learning_rate": [1e-3, 1e-2]}, sampler="grid", workers=2)
    begun = Workers(read_sweep(content, {}))
    ended = list(begun)
    found = begun.findings()
    assert found["counts"]["complete"] == 6 and sorted(trial["trial"] for trial in ended) == list(range(6))
    assert (tmp_path / "sweep" / "best.yaml").is_file() and len(list((tmp_path / "sweep" / "workers").glob("*.log"))) == 2
    alone = sweep({**content, "workers": 1, "output": str(tmp_path / "alone")})
    assert [trial["values"] for trial in found["trials"]] == [trial["values"] for trial in alone["trials"]]
    assert [trial["score"] for trial in found["trials"]] == [trial["score"] for trial in alone["trials"]], "one thread each, so bit for bit"


@pytest.mark.slow
def test_workers_whose_trials_all_fail_stop(make: MakeSweep) -> None:
    content = make({"loss": ["binary-cross-entropy"], "training.seed": [0, 1, 2, 3]}, sampler="grid", workers=2)
    with pytest.raises(RunStopped, match=r"(?s)of the sweep stopped: all of the first \d trials failed.*does not fit a single-label"):
        list(Workers(read_sweep(content, {})))


@pytest.mark.slow
def test_a_killed_sweep_goes_on(make: MakeSweep, tmp_path: Path) -> None:
    content = make({"training.seed": [0, 1, 2]}, {"training.max_steps": 300, "training.save_every": "5 steps"}, sampler="grid")
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.dump(content), encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-m", "luthier", "sweep", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = tmp_path / "sweep" / "trials" / "001" / "checkpoints"
    deadline = time.monotonic() + 240
    while not (second.is_dir() and any(second.glob("step-*"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = Sweep.begin(file)
    numbers = [(trial.number, next(iter([tick.step for tick in trial]))) for trial in begun]
    assert [number for number, _ in numbers] == [1, 2] and numbers[0][1] > 1 and numbers[1][1] == 1
    assert begun.findings()["counts"]["complete"] == 3
