"""A sweep on Ray Tune: what is handed over and heard, with a stand-in for Ray; and with Ray itself where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import RunStopped, SetupError
from luthier.workflows.ray_worker import Job
from luthier.workflows.sweep import on_ray
from luthier.workflows.sweep.on_ray import Ledger, OnRay, RemoteTrial
from luthier.workflows.sweep.section import SweepPlan, read_sweep
from luthier.workflows.sweep.study import open_study
from luthier.workflows.sweep.sweep import Sweep, findings_and_best, sweep
from luthier.workflows.sweep.trial import TrialRun

pytest.importorskip("optuna")
HAS_RAY = importlib.util.find_spec("ray") is not None
QUICK = {
    "training.max_steps": 4,
    "training.batch_size": 16,
    "model.head": {"start": "zero"},
    "data.split": {"validation": 0.2, "test": 0.2},
}


@pytest.fixture
def make(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def made(space: dict[str, Any], changes: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
        base = recipe(changes={**QUICK, **(changes or {})})
        return {"recipe": base, "space": space, "output": str(tmp_path / "sweep"), "pruner": "none", "sampler": "grid", **keys}

    return made


class StopTrial(BaseException):
    """What ends a trial in the stand-in, as Ray ends its process."""


def stand_in(plan: SweepPlan, *, most: int | None = None) -> Ledger:
    """Do what Ray Tune does with a ledger, one trial after the other; `most` trials, and then it is gone."""
    ledger = Ledger(plan, open_study(plan))
    number = 0
    while number != most and (asked := ledger.ask(f"trial_{number}")) is not None:
        name = f"trial_{number}"

        def report(said: dict[str, Any], name: str = name) -> None:
            assert all(isinstance(value, str) for value in said.values()), "Ray flattens what is no plain value"
            if ledger.hear(name, said):
                raise StopTrial

        remote: Any = RemoteTrial(**asked, report=report)
        try:
            for _ in TrialRun(plan, remote, remote, seconds_left=float("inf")):
                pass
        except StopTrial:
            pass
        ledger.close(name, lost=False)
        number += 1
    return ledger


def test_the_trials_are_those_of_a_sweep_without_ray(make: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    space = {"optim.learning_rate": [1e-9, 1e-2], "adapter": [None, {"type": "lora", "r": 2}]}
    content = make(space, {"model.head": {}, "training.eval_every": "2 steps"})
    ledger = stand_in(read_sweep(content, {}))
    found = findings_and_best(ledger.plan, ledger.study)
    alone = sweep({**content, "output": str(tmp_path / "alone")})
    assert found["counts"]["complete"] == 4 and [ledger.ended.get() for _ in range(4)] == [0, 1, 2, 3]
    kept = ("values", "score", "scores_while_training", "state")
    assert [{key: one[key] for key in kept} for one in found["trials"]] == [{key: one[key] for key in kept} for one in alone["trials"]]
    assert all(one["seconds"] > 0 for one in found["trials"]) and (tmp_path / "sweep" / "best.yaml").is_file()


def test_trials_behind_and_trials_that_fail(make: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    changes = {"training.max_steps": 24, "training.eval_every": "8 steps"}
    ledger = stand_in(read_sweep(make({"optim.learning_rate": [1e-2, 1e-9], "training.seed": [0, 1, 2]}, changes, pruner="median"), {}))
    found = findings_and_best(ledger.plan, ledger.study)
    pruned = [one for one in found["trials"] if one["state"] == "pruned"]
    assert pruned and all(one["values"]["optim.learning_rate"] == 1e-9 for one in pruned)
    assert not list((tmp_path / "sweep").rglob("checkpoints"))
    odd = make({"loss": ["binary-cross-entropy", "cross-entropy"]}, output=str(tmp_path / "odd"))
    ledger = stand_in(read_sweep(odd, {}))
    failed, well = findings_and_best(ledger.plan, ledger.study)["trials"]
    assert failed["state"] == "failed" and "does not fit a single-label problem" in failed["error"] and well["state"] == "complete"
    all_bad = make({"loss": ["binary-cross-entropy"], "training.seed": [0, 1, 2, 3, 4]}, output=str(tmp_path / "bad"))
    assert len(stand_in(read_sweep(all_bad, {})).study.trials) >= 3, "after three there is no next one"
    assert sum(trial.state.is_finished() for trial in stand_in(read_sweep(all_bad, {})).study.trials) == 3


def test_it_goes_on_with_or_without_ray(make: Callable[..., dict[str, Any]]) -> None:
    content = make({"training.seed": [0, 1, 2]})
    plan = read_sweep(content, {})
    first = stand_in(plan, most=1)
    asked = first.ask("dropped")
    assert asked is not None and asked["number"] == 1
    again = Ledger(plan, open_study(plan))
    taken = again.ask("again")
    assert taken is not None and taken["number"] == 1 and taken["params"] == asked["params"], "what was under way comes first"
    again.close("again", lost=True)
    assert [trial.number for trial in Sweep(plan) if list(trial)] == [2]
    found = findings_and_best(plan, open_study(plan))
    assert [one["state"] for one in found["trials"]] == ["complete", "failed", "complete"] and "process was lost" in found["trials"][1][
        "error"
    ]


def test_a_machine_that_does_not_see_the_folder_is_said(make: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    said: list[dict[str, Any]] = []
    fake = SimpleNamespace(tune=SimpleNamespace(report=said.append))
    monkeypatch.setitem(sys.modules, "ray", fake)
    job = Job(None, "x", True, (), folder="/", sign="/nowhere/sign", started=0.0)
    asked = {"number": 0, "params": {}, "user_attrs": {}}
    on_ray.do_trial({"asked": asked, "job": job, "plan": read_sweep(make({"training.seed": [0]}), {})})
    assert len(said) == 1 and '"ended": "FAIL"' in said[0]["said"] and "does not see the folder" in said[0]["said"]


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_it_says_what_to_install(make: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(SetupError, match="--cluster ray needs Ray") as error:
        OnRay(read_sweep(make({"training.seed": [0]}), {}))
    assert error.value.fix is not None and "luthier[ray,sweep]" in error.value.fix


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install -c constraints.txt -e '.[ray]'")
def test_ray_does_the_trials(make: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    content = make({"training.seed": [0, 1, 2]}, {"training.eval_every": "2 steps"}, workers=2)
    begun = OnRay(read_sweep(content, {}))
    ended = list(begun)
    found = begun.findings()
    assert sorted(one["trial"] for one in ended) == [0, 1, 2] and found["counts"]["complete"] == 3
    alone = sweep({**content, "workers": 1, "output": str(tmp_path / "alone")})
    assert [one["score"] for one in found["trials"]] == [one["score"] for one in alone["trials"]]
    bad = make({"loss": ["binary-cross-entropy"], "training.seed": [0, 1, 2, 3]}, output=str(tmp_path / "bad"))
    with pytest.raises(RunStopped, match="(?s)all of the first . trials failed.*does not fit a single-label"):
        list(OnRay(read_sweep(bad, {})))
