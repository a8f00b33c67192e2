"""Out of memory: the step is done again in smaller pieces with the same rows, and what is no lack of memory is raised as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import steps_of, train_until, weights_hash
from torch.optim.optimizer import register_optimizer_step_pre_hook

from luthier import flow
from luthier.core import files
from luthier.core.errors import RunStopped
from luthier.core.work import Batch
from luthier.flow import Training
from luthier.tasks.text_classification import TextClassificationWork
from luthier.training.memory import MOST_HALVINGS

MakeRecipe = Callable[..., dict[str, Any]]
ERRORS: dict[str, Callable[[], Exception]] = {
    "torch.OutOfMemoryError": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "the CPU's allocator": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    "MemoryError": lambda: MemoryError(),
}
CHANGES = {
    "data.split": {"test": 0.2},  # leaves 96 rows: 12 batches of 8
    "training.max_steps": 8,
    "training.save_every": "2 steps",
    "training.max_grad_norm": 1e9,
    "evaluate.baseline": False,
}
RAGGED = {**CHANGES, "data.split": {"test": 0.25}, "training.gradient_accumulation_steps": 3}  # 90 rows: one batch of 2
TOLERANCE = 1e-6


@contextmanager
def memory_for(rows: int, error: Callable[[], Exception]) -> Iterator[list[int]]:
    """Let the loss of more rows than this fail, half way through a window too; yields the sizes that failed."""
    with pytest.MonkeyPatch.context() as patched:
        losses, failed = TextClassificationWork.losses, list[int]()

        def limited(self: TextClassificationWork, parts: Any, batch: Batch) -> Any:
            if len(batch.ids) > rows:
                failed.append(len(batch.ids))
                raise error()
            return losses(self, parts, batch)

        patched.setattr(TextClassificationWork, "losses", limited)
        yield failed


def gradients(recipe: dict[str, Any]) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """The whole gradient of each step, as the optimiser gets it, and the log; the rate is so small that no weight moves."""
    found: list[torch.Tensor] = []

    def note(optimiser: torch.optim.Optimizer, *given: Any) -> None:
        found.append(torch.cat([p.grad.flatten() for group in optimiser.param_groups for p in group["params"] if p.grad is not None]))

    recipe["optim"] = {"type": "sgd", "learning_rate": 1e-30, "head_learning_rate": 1e-30, "weight_decay": 0}
    hook = register_optimizer_step_pre_hook(note)
    try:
        return found, steps_of(flow.train(recipe).path)
    finally:
        hook.remove()


def test_the_step_is_the_same_in_smaller_pieces(
    recipe: MakeRecipe, still_model: Path, scale: Callable[[int, int], int], proof: Callable[..., None]
) -> None:
    cases = list(itertools.product((False, True), (3, 1, 2, 5), ERRORS))[:: scale(5, 1)]
    largest, numbers = 0.0, itertools.count()
    plain = {ragged: gradients(recipe(f"plain-{ragged}", RAGGED if ragged else CHANGES, model=still_model)) for ragged in (False, True)}
    for ragged, rows, name in cases:
        with memory_for(rows, ERRORS[name]) as failed:
            found, log = gradients(recipe(f"run-{next(numbers)}", RAGGED if ragged else CHANGES, model=still_model))
        wanted, plain_log = plain[ragged]
        assert len(found) == len(wanted) == 8 and failed and min(failed) > rows
        assert ragged or failed == [8, 4, 2][: len(failed)]
        largest = max(largest, *(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)))
        assert [(step["step"], step["samples"], step["tokens"]) for step in log] == [
            (step["step"], step["samples"], step["tokens"]) for step in plain_log
        ]
        assert {step["micro_batch"] for step in log} == {{5: 4, 3: 2, 2: 2, 1: 1}[rows]} and not any(
            "micro_batch" in step for step in plain_log
        )
    proof(
        item="12",
        promise="out of memory (three kinds of error, simulated): the micro-batch is halved until it fits, rows of a step and the step "
        "counter stay the same, the log says the size",
        asked="relative gradient error at most 1e-6 with dropout 0",
        reached=f"{largest:.1e} at most, over {8 * len(cases)} steps in {len(cases)} settings",
        ok=0 < largest <= TOLERANCE,
    )


def test_what_never_fits_stops_the_run(recipe: MakeRecipe, proof: Callable[..., None]) -> None:
    said = []
    for batch_size, rows, wanted in ((8, 0, [8, 4, 2, 1]), (128, 1, [96, 48, 24, 12, 6, 3, 2])):
        training = Training.begin(recipe(f"run-{batch_size}", {**CHANGES, "training.batch_size": batch_size}))
        with memory_for(rows, ERRORS["torch.OutOfMemoryError"]) as failed, pytest.raises(RunStopped, match="out of memory") as caught:
            list(training)
        assert failed == wanted
        assert caught.value.exit_code == 3 and caught.value.fix and "Traceback" not in str(caught.value)
        assert steps_of(training.run.path) == [] and not training.run.checkpoints.exists(), "the step counter is untouched"
        said.append(len(failed) - 1)
        flow.resume(training.run.path)
        assert steps_of(training.run.path)[-1]["step"] == 8, "with memory, it goes on"
    proof(
        item="12",
        promise="what does not fit even then stops the run with exit code 3 and advice, at the step it had reached",
        asked="at most 6 halvings",
        reached=f"{max(said)} halvings at most",
        ok=max(said) == MOST_HALVINGS == 6,
    )


def test_the_smaller_size_survives_a_resume(recipe: MakeRecipe, proof: Callable[..., None]) -> None:
    with memory_for(3, ERRORS["torch.OutOfMemoryError"]) as failed:
        whole = flow.train(recipe("whole", CHANGES)).path
        assert failed == [8, 4]
        run = train_until(recipe("run", CHANGES), 5)
        failed.clear()
        flow.resume(run)
    assert files.read_json(run / "metrics.json")["resumed_from_step"] == 4
    equal = weights_hash(run) == weights_hash(whole) and steps_of(run) == steps_of(whole)
    proof(
        item="12",
        promise="the smaller size survives a resume, which is bit-exact with dropout on",
        asked="no second lack of memory, same weights and log",
        reached=f"{len(failed)} more, {'the same' if equal else 'other'} weights and log",
        ok=equal and not failed,
    )


@pytest.mark.parametrize("step", [1, 4])
def test_memory_may_run_out_at_a_later_step(step: int, recipe: MakeRecipe, still_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer batch than all before: from this step on micro-batches are smaller, and the curve is the same to rounding."""
    plain = steps_of(flow.train(recipe("plain", CHANGES, model=still_model)).path)
    losses, calls = TextClassificationWork.losses, itertools.count(1)

    def fails_once(self: TextClassificationWork, parts: Any, batch: Batch) -> Any:
        if next(calls) == step:
            raise ERRORS["the CPU's allocator"]()
        return losses(self, parts, batch)

    monkeypatch.setattr(TextClassificationWork, "losses", fails_once)
    found = steps_of(flow.train(recipe("run", CHANGES, model=still_model)).path)
    assert [one.get("micro_batch") for one in found] == [None] * (step - 1) + [4] * (9 - step)
    assert [one["loss"] for one in found] == pytest.approx([one["loss"] for one in plain], rel=1e-3)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x"), IndexError("index out of range in self")]
)
def test_other_errors_are_raised_as_they_are(error: Exception, recipe: MakeRecipe) -> None:
    with memory_for(0, lambda: error) as failed, pytest.raises(type(error)) as caught:
        list(Training.begin(recipe("run", CHANGES)))
    assert caught.value is error and failed == [8]
