"""Precision: measured once per machine and remembered; fp16 scales, skips and resumes as it should."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import steps_of, train_until, weights_hash

from luthier import flow
from luthier.core.errors import ConfigError, RunStopped
from luthier.recipe import resolve
from luthier.stages.layout import decide
from luthier.tasks.text_classification import TextClassificationWork
from luthier.training import precision
from luthier.training.fit import MOST_SKIPS
from luthier.training.measured import all_remembered, remembered
from luthier.training.scaling import LOWEST, scaling_for

MakeRecipe = Callable[..., dict[str, Any]]
CHANGES = {"training.max_steps": 10, "training.save_every": "2 steps", "evaluate.baseline": False}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[str]:
    """Counts measurements; bf16 is twice as fast."""
    calls: list[str] = []

    def rates(device: str) -> dict[str, float]:
        calls.append(device)
        return {"fp32": 1.0, "bf16": 2.0}

    monkeypatch.setattr(precision, "_products_per_second", rates)
    return calls


def test_a_second_run_reads_what_the_first_measured(measured: list[str], cache: Path) -> None:
    assert [precision.choose_precision("auto", "cpu") for _ in range(3)] == ["bf16"] * 3
    assert measured == ["cpu"]
    (known,) = all_remembered()
    assert known["what"] == "precision" and known["figures"] == {"fp32": 1.0, "bf16": 2.0}
    assert set(known["facts"]) == {"processor", "torch", "threads", "device"}


def test_other_threads_or_another_torch_are_measured_anew(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    precision.choose_precision("auto", "cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    precision.choose_precision("auto", "cpu")
    monkeypatch.setattr(torch, "__version__", "9.9")
    precision.choose_precision("auto", "cpu")
    assert len(measured) == 3 and len(all_remembered()) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"figures": {}}', '{"figures": {"fp32": NaN}}', "\x00\xff"])
def test_a_damaged_file_is_measured_again(content: str, measured: list[str], cache: Path) -> None:
    precision.choose_precision("auto", "cpu")
    (file,) = (cache / "measured").iterdir()
    file.write_text(content, encoding="latin-1")
    assert precision.choose_precision("auto", "cpu") == "bf16" and len(measured) == 2
    precision.choose_precision("auto", "cpu")
    assert len(measured) == 2 and json.loads(file.read_text())["figures"]["bf16"] == 2.0


def test_figures_that_would_mislead_are_not_taken(cache: Path) -> None:
    assert remembered("x", {}, lambda: {"a": 1.0}) == {"a": 1.0}
    (file,) = (cache / "measured").iterdir()
    for wrong in ({"a": -1.0}, {"a": 0.0}, {}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"figures": wrong}))
        assert remembered("x", {}, lambda: {"a": 3.0}) == {"a": 3.0}


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "file"))
    assert [precision.choose_precision("auto", "cpu") for _ in range(2)] == ["bf16"] * 2 and len(measured) == 2


def test_the_real_measurement_gives_two_rates() -> None:
    rates = precision._products_per_second("cpu")
    assert set(rates) == {"fp32", "bf16"} and all(math.isfinite(rate) and rate > 0 for rate in rates.values())


def test_fp16_on_a_cpu_is_refused(recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match="training.precision: got fp16 and no GPU.*bf16"):
        precision.choose_precision("fp16", "cpu")
    assert precision.choose_precision("fp16", "cuda") == "fp16"
    with pytest.raises(ConfigError, match="fsdp2"):
        resolve(recipe("run", {"training.precision": "fp16", "training.parallel": "fsdp2"}))


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fp16 through on a CPU, where torch computes it slowly."""
    monkeypatch.setattr(decide, "choose_precision", lambda wanted, device: "fp16")


def losses_of(recipe: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in steps_of(flow.train(recipe).path)]


def test_the_curve_of_fp16_is_that_of_fp32(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = losses_of(recipe("plain", CHANGES))
    monkeypatch.setattr(decide, "choose_precision", lambda wanted, device: "fp16")
    found = losses_of(recipe("fp16", CHANGES))
    assert found != plain and found == pytest.approx(plain, abs=5e-3)


def overflowing(monkeypatch: pytest.MonkeyPatch, above: float) -> list[float]:
    """Let the gradient overflow where the scale is above a value; returns the scales that were tried."""
    from luthier.training import scaling

    scales: list[float] = []
    losses = scaling._Lifted.losses

    def hurt(self: Any, parts: Any, batch: Any) -> Any:
        scales.append(self.scale)
        terms = losses(self, parts, batch)
        if self.scale > above:
            terms = {name: term._replace(sum=_Poison.apply(term.sum)) for name, term in terms.items()}
        return terms

    monkeypatch.setattr(scaling._Lifted, "losses", hurt)
    return scales


class _Poison(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> torch.Tensor:
        return grad[0] * float("inf")


@pytest.mark.usefixtures("fp16")
def test_skips_while_the_scale_is_found_are_no_divergence(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = overflowing(monkeypatch, above=1000)
    run = flow.train(recipe("run", CHANGES)).path
    skipped = [step["step"] for step in steps_of(run) if "skipped" in step]
    assert skipped == [1, 2, 3, 4, 5, 6, 7] and len(skipped) > MOST_SKIPS, "2**16 halved until it is below 1,000"
    assert scales[:8] == [2.0**power for power in range(16, 8, -1)] and scales[8:] == [512.0, 512.0]


@pytest.mark.usefixtures("fp16")
def test_a_gradient_that_is_never_finite_still_ends_the_run(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = overflowing(monkeypatch, above=0)
    with pytest.raises(RunStopped, match="diverged"):
        flow.train(recipe("run", {**CHANGES, "training.max_steps": 60}))
    assert sum(scale < LOWEST for scale in scales) == MOST_SKIPS


@pytest.mark.usefixtures("fp16")
def test_a_loss_that_is_not_finite_counts_at_any_scale(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = TextClassificationWork.losses
    broken = {"loss": float("nan")}

    def hurt(self: Any, parts: Any, batch: Any) -> Any:
        return {name: term._replace(sum=term.sum * broken[name]) for name, term in losses(self, parts, batch).items()}

    monkeypatch.setattr(TextClassificationWork, "losses", hurt)
    with pytest.raises(RunStopped, match="the loss is nan at step 3"):
        flow.train(recipe("run", CHANGES))


@pytest.mark.usefixtures("fp16")
def test_a_resume_goes_on_with_the_scale_that_was_found(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    overflowing(monkeypatch, above=20000)
    whole = flow.train(recipe("whole", CHANGES)).path
    run = train_until(recipe("run", CHANGES), 5)
    state = json.loads((run / "checkpoints" / "step-00000004" / "state.json").read_text())
    assert state["training"]["loss_scale"]["scale"] == 2.0**14 and state["training"]["loss_scale"]["_growth_tracker"] == 2
    flow.resume(run)
    assert weights_hash(run) == weights_hash(whole) and steps_of(run) == steps_of(whole)


def test_the_scale_leaves_the_gradient_that_is_clipped() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    scaling = scaling_for("fp16", "cpu", None)
    (weight * scaling.lowered({"x": 2.0**16})["x"] * 2.0**16).sum().backward()
    scaling.unscale(optimiser)
    assert weight.grad is not None and weight.grad.tolist() == [1.0]


@pytest.mark.gpu
def test_fp16_trains_on_a_gpu(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    with caplog.at_level(logging.WARNING, "luthier"):
        found = losses_of(recipe("run", {**CHANGES, "training.precision": "fp16", "training.max_steps": 30}))
    assert found[-1] < found[0]
