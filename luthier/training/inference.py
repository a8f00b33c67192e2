"""Forward passes without gradients, over prepared rows or new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch

from luthier.core.side_by_side import in_order
from luthier.core.work import Batch, Outputs, Parts, TokenOutputs
from luthier.training.precision import arithmetic

Found = TypeVar("Found", Outputs, TokenOutputs)
CORE_TOKENS = 1024  # a core's cache holds what so many tokens need; larger batches were slower (LOG.md)


@contextmanager
def measuring(parts: Parts) -> Iterator[None]:
    """Within the context, parts are in evaluation mode and nothing is recorded for gradients; random generators are untouched."""
    modes = {name: part.module.training for name, part in parts.items()}
    for part in parts.values():
        part.module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for name, part in parts.items():
            part.module.train(modes[name])


def run_batches(
    call: Callable[[Parts, Batch], Any],
    parts: Parts,
    batches: Iterable[Batch],
    *,
    device: str = "cpu",
    check: Callable[[], None] | None = None,
    alone: bool = False,
) -> Iterator[Any]:
    """Yield what `call` says of each batch; on a CPU each core has a batch of its own.

    Args:
        call: A method of the task's work, such as `outputs`.
        parts: Named modules.
        batches: Padded batches.
        device: Device of the modules.
        check: Called before each batch; may raise to cut the work short.
        alone: One batch at a time on all cores, for calls that change what others read.
    """
    with measuring(parts), arithmetic(parts, device):
        if device == "cpu" and not alone:
            yield from in_order(_as_here(call, parts), _checked(batches, check))
            return
        for batch in _checked(batches, check):
            yield call(parts, batch.to(device) if device != "cpu" else batch)


def most_tokens(device: str, wished: int) -> int:
    """Return the tokens of a batch that `run_batches` takes: on a CPU no more than stay in a core's cache.

    Args:
        device: Device of the modules.
        wished: The most that memory is to hold.
    """
    return min(wished, CORE_TOKENS) if device == "cpu" else wished


def _as_here(call: Callable[[Parts, Batch], Any], parts: Parts) -> Callable[[Batch], Any]:
    """Return the call as other threads make it: torch's modes are each thread's own."""
    half, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def made(batch: Batch) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=half):
            return call(parts, batch)

    return made


def _checked(batches: Iterable[Batch], check: Callable[[], None] | None) -> Iterator[Batch]:
    for batch in batches:
        if check is not None:
            check()
        yield batch


def merged(outputs: Sequence[Found]) -> Found:
    """Return outputs as one, in the order of their sample ids, each id once."""
    _, order = np.unique(np.concatenate([output.ids for output in outputs]), return_index=True)
    columns: dict[str, Any] = {field.name: [getattr(output, field.name) for output in outputs] for field in fields(outputs[0])}
    whole: dict[str, Any] = {name: None if found[0] is None else np.concatenate(found)[order] for name, found in columns.items()}
    return type(outputs[0])(**whole)
