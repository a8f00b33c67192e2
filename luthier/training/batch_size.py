"""The largest micro-batch that fits in memory and pays, found by trying; model, optimiser and random numbers stay as they are."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from luthier.core.errors import RunStopped, is_out_of_memory
from luthier.core.machine import available_memory_bytes, memory_bytes
from luthier.core.work import Batch, Parts
from luthier.training.loop import Care
from luthier.training.precision import autocast
from luthier.training.state import undisturbed
from luthier.training.step_rules.step_rule import Losses, StepRule

log = logging.getLogger("luthier")
WORTH_IT = 1.05  # times as many tokens per second
FURTHER = 1.5  # a size is tried when it is at least so many times the one before
SPARE = 0.8  # of the memory of the machine that a step may take
PASSES = 3  # the quickest counts


@dataclass(frozen=True)
class Sizes:
    """What is tried.

    Args:
        effective: Rows of an optimiser step, which stay.
        longest: Makes a batch of so many of the longest rows.
        usual: Makes a batch of so many rows of middle length.
        kept: Bytes that a run keeps beside the model and what a batch takes: gradients, what the optimiser remembers, copies of weights.
    """

    effective: int
    longest: Callable[[int], Batch]
    usual: Callable[[int], Batch]
    kept: float = 0.0

    @property
    def all(self) -> list[int]:
        """Divisors of the effective batch, each at least half as large again as the one before, and the effective batch itself."""
        chosen: list[int] = []
        for size in (size for size in range(1, self.effective + 1) if self.effective % size == 0):
            if not chosen or size >= FURTHER * chosen[-1]:
                chosen.append(size)
        return chosen if chosen[-1] == self.effective else [*chosen, self.effective]


def largest_that_pays(sizes: Sizes, parts: Parts, work: Losses, rule: StepRule, care: Care) -> int:
    """Return the size of micro-batches: the largest that fits; on the processor, the last that still made it quicker.

    Args:
        sizes: What is tried.
        parts: Named modules.
        work: Gives weights and losses of a batch.
        rule: Makes the gradient.
        care: Device and precision.

    Raises:
        RunStopped: if not even one row fits.
    """
    best, best_rate, without_gain = 0, 0.0, 0
    with undisturbed(), _as_before(parts), _room_for(sizes.kept, care.device):
        for size in sizes.all:
            if care.device == "cpu" and best and not _has_room(parts, sizes.kept, size / best):
                log.info("batch size: %d rows are not tried, they would take more memory than is there", size)
                break
            try:
                rate = _tokens_per_second(sizes, size, parts, work, rule, care)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                _forget(parts)
                break
            pays = rate > WORTH_IT * best_rate or care.device != "cpu"
            best, best_rate, without_gain = (size, rate, 0) if pays else (best, best_rate, without_gain + 1)
            if without_gain == 2:
                break
    if not best:
        fix = "use a smaller model, shorter texts (data.max_length=128), or a machine with more memory"
        raise RunStopped("out of memory even with 1 row at once", where="training.batch_size=auto", fix=fix)
    log.info(
        "batch size: %d rows at once, %d times in a step of %d (%.0f tokens/s)", best, sizes.effective // best, sizes.effective, best_rate
    )
    return best


def _tokens_per_second(sizes: Sizes, size: int, parts: Parts, work: Losses, rule: StepRule, care: Care) -> float:
    """Do the longest rows once, for the memory, and usual ones for the time."""
    _pass(sizes.longest(size), parts, work, rule, care)
    batch, least = sizes.usual(size), float("inf")
    for _ in range(PASSES):
        started = time.perf_counter()
        _pass(batch, parts, work, rule, care)
        least = min(least, time.perf_counter() - started)
    return batch.num_tokens / least


def _pass(batch: Batch, parts: Parts, work: Losses, rule: StepRule, care: Care) -> None:
    moved = batch.to(care.device) if care.device != "cpu" else batch
    rule.gradient(work, parts, [moved], autocast(care.precision, care.device), care.world)
    if care.device != "cpu":
        torch.cuda.synchronize()


def _has_room(parts: Parts, kept: float, growth: float) -> bool:
    """Whether a batch so many times as large as the last one fits, if all that the process took were to grow with it."""
    weights = sum(p.numel() * p.element_size() for part in parts.values() for p in part.module.parameters())
    grown = max(memory_bytes() - 2 * weights, 0) * (growth - 1)
    return grown + kept <= SPARE * available_memory_bytes()


@contextmanager
def _room_for(kept: float, device: str) -> Iterator[None]:
    """Within the context the accelerator's memory is taken that a run will keep."""
    taken = torch.empty(int(kept), dtype=torch.uint8, device=device) if device != "cpu" else None
    try:
        yield
    finally:
        del taken
        if device != "cpu":
            torch.cuda.empty_cache()


@contextmanager
def _as_before(parts: Parts) -> Iterator[None]:
    """After the context no gradient is left, and every buffer is as it was."""
    buffers = [(buffer, buffer.clone()) for part in parts.values() for buffer in part.module.buffers()]
    try:
        yield
    finally:
        _forget(parts)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _forget(parts: Parts) -> None:
    for part in parts.values():
        part.module.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
