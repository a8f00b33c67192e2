"""Ctrl-C, SIGTERM and SIGKILL on a real `luthier train`: what was saved stays, and the run goes on from there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from runs import checkpoint_weights, checkpoints_of, same_weights, steps_of, weights_hash
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files, yaml
from luthier.core.errors import Interrupted
from luthier.flow import Training
from luthier.training.step_rules.accumulate import Accumulate

pytest.importorskip("luthier.cli.main", reason="luthier/cli/main.py is not written yet")
MakeRecipe = Callable[..., dict[str, Any]]
CHANGES = {"training.max_steps": 400, "training.save_every": "50steps", "evaluate.baseline": False}
PATIENCE_SECONDS = 120


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "luthier", "train", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Wait until the log of the run has reached a step."""
    log, deadline = run / "events.jsonl", time.monotonic() + PATIENCE_SECONDS
    while not log.is_file() or log.read_text(encoding="utf-8").count("\n") < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the training never got there"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> Path:
    return flow.train(tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path_factory.mktemp("whole") / "run", CHANGES)).path


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["TERM", "INT", "KILL"]
)
def test_a_signal_loses_nothing(number: signal.Signals, code: int, recipe: MakeRecipe, tmp_path: Path, uninterrupted: Path) -> None:
    data = recipe("run", CHANGES)
    (tmp_path / "recipe.yaml").write_text(yaml.dump(data), encoding="utf-8")
    run = Path(data["output"])
    process = start(str(tmp_path / "recipe.yaml"))
    wait_for_step(process, run, 55)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, said
    assert "Traceback" not in said
    reached = steps_of(run)[-1]["step"]
    assert 55 <= reached < 400 and not (run / "metrics.json").exists()
    if number != signal.SIGKILL:
        assert checkpoints_of(run)[-1] == reached, "the step it stopped after is saved"
        assert f"luthier train --resume {run}" in said
    if number == signal.SIGTERM:
        again = start("--resume", str(run))
        out, said = again.communicate(timeout=PATIENCE_SECONDS)
        assert again.returncode == 0, said
        assert json.loads(out.splitlines()[-1]) == files.read_json(run / "metrics.json")
    else:
        flow.resume(run)
    resumed_from = files.read_json(run / "metrics.json")["resumed_from_step"]
    assert resumed_from == (reached if number != signal.SIGKILL else reached - reached % 50)
    assert weights_hash(run) == weights_hash(uninterrupted)
    assert [step["loss"] for step in steps_of(run)] == [step["loss"] for step in steps_of(uninterrupted)]


VALIDATED = {
    "training.max_steps": 6,
    "training.save_every": "2steps",
    "training.eval_every": "2steps",
    "data.split": {"validation": 0.2, "test": 0.2},
    "evaluate.baseline": False,
}


@pytest.mark.parametrize("stopped_at", [2, 3, 6], ids=["an evaluated step", "another step", "the last step"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_no_evaluation_out(
    number: signal.Signals, stopped_at: int, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation that the stop came before has the best score: it must count after the resume."""
    best, training, right, steps = stopped_at + stopped_at % 2, Training.begin(recipe("run", VALIDATED)), Accumulate.gradient, [0]

    def gradient(*given: Any) -> dict[str, float]:
        steps[0] += 1
        if steps[0] == stopped_at:
            signal.raise_signal(number)
        return right(*given)

    monkeypatch.setattr(Accumulate, "gradient", gradient)
    monkeypatch.setattr(
        "luthier.stages.running.train.quick_scores", lambda work, outputs: {"accuracy": 0.9 if steps[0] == best else 0.1, "loss": 1.0}
    )
    if stopped_at < 6:
        with pytest.raises(Interrupted) as caught:
            list(training)
        assert caught.value.exit_code == 128 + number and str(training.run.path) in str(caught.value.fix)
    else:
        with contextlib.suppress(Interrupted):
            list(training)
    run = training.run.path
    flow.resume(run)
    assert steps[0] == 6, "no step is done twice"
    assert files.read_json(run / "metrics.json")["best_step"] == best
    assert same_weights(load_file(run / "model" / "model.safetensors"), checkpoint_weights(run, best))


def test_handlers_are_put_back(recipe: MakeRecipe) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    list(Training.begin(recipe("run", {"training.max_steps": 2})))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
