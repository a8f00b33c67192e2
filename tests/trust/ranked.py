"""What the processes of ranks.py do. Whatever a training imports late is imported here, once, by the zygote."""

from __future__ import annotations

import errno
import importlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers.models.bert.modeling_bert  # noqa: F401

import luthier.cli.progress
import luthier.stages.results.finish
import luthier.stages.running.train
import luthier.tasks.text.preparation
import luthier.training.distributed  # noqa: F401


def become(rank: int, where: dict[str, str], call: str, arguments: Sequence[Any]) -> int:
    """In a fork: be process `rank` of those that meet somewhere."""
    os.environ |= {**where, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": where["WORLD_SIZE"]}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def luthier(arguments: list[str], fault: dict[str, Any] | None = None) -> int:
    """Run the command line, with a fault in one of the processes.

    Args:
        arguments: What stands after `luthier`.
        fault: `name` of a function in FAULTS, and what it is called with.
    """
    from luthier.cli.main import main

    if fault:
        FAULTS[fault["name"]](**{key: value for key, value in fault.items() if key != "name"})
    return main(arguments)


def train_until(arguments: list[str], step: int) -> int:
    """Train, and be gone without a word right after a step, as when the power fails."""
    from luthier.cli import progress

    def follow(training: Any, output: Any) -> None:
        for tick in training:
            if tick.step == step:
                os._exit(0)

    progress.follow = follow
    return luthier(arguments)


def is_rank(rank: int) -> bool:
    """Whether this is the process of a number."""
    return os.environ["RANK"] == str(rank)


def at_step(steps: Sequence[int], do: Callable[[dict[str, float]], None]) -> None:
    """Do something when the gradient of some steps has been made."""
    from luthier.training.step_rules.accumulate import Accumulate

    right, count = Accumulate.gradient, [0]

    def gradient(self: Any, work: Any, parts: Any, *given: Any) -> Any:
        count[0] += 1
        if count[0] in steps:
            do(parts)
        return right(self, work, parts, *given)

    Accumulate.gradient = gradient  # type: ignore[method-assign]


def _nan(rank: int, steps: Sequence[int]) -> None:
    """The loss of one process is not a number at some steps."""
    from luthier.tasks.text_classification import TextClassificationWork

    right, is_now = TextClassificationWork.losses, [False]
    at_step(steps, lambda parts: is_now.__setitem__(0, True))

    def losses(self: Any, parts: Any, batch: Any) -> Any:
        terms = right(self, parts, batch)
        if is_now[0] and is_rank(rank):
            terms = {name: term._replace(sum=term.sum * float("nan")) for name, term in terms.items()}
        is_now[0] = False
        return terms

    TextClassificationWork.losses = losses  # type: ignore[method-assign]


def _signal(rank: int, step: int, number: int) -> None:
    """One process sends itself a signal."""
    if is_rank(rank):
        at_step([step], lambda parts: os.kill(os.getpid(), number))


def _raises(rank: int, step: int, kind: str) -> None:
    """An error in one process."""

    def fail(parts: Any) -> None:
        raise {"bug": ZeroDivisionError("made for the test"), "memory": MemoryError("made for the test")}[kind]

    if is_rank(rank):
        at_step([step], fail)


def _full_disk(rank: int, seconds: float) -> None:
    """Space runs out for one process at its second checkpoint, and comes back after a while."""
    from luthier.training import checkpoint
    from luthier.training.checkpoint import saved

    right, first = checkpoint.write_counters, [0, 0.0]

    def write_counters(folder: Path, *given: Any) -> None:
        first[0] += 1
        first[1] = first[1] or (time.monotonic() if first[0] == 2 else 0.0)
        if first[1] and time.monotonic() < first[1] + seconds:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        right(folder, *given)

    if is_rank(rank):
        checkpoint.write_counters = saved.write_counters = write_counters


def _no_preparation(ranks: Sequence[int]) -> None:
    """Some processes cannot prepare data."""
    from luthier.tasks.text import preparation

    def fail(*given: Any, **named: Any) -> None:
        raise AssertionError("only process 0 prepares")

    if int(os.environ["RANK"]) in ranks:
        preparation.load_rows = fail


FAULTS: dict[str, Callable[..., None]] = {
    "nan": _nan,
    "signal": _signal,
    "raises": _raises,
    "full disk": _full_disk,
    "no preparation": _no_preparation,
}
