"""Forward passes without gradients, over prepared rows or new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch

from luthier.core.work import Batch, Outputs, Parts, TokenOutputs
from luthier.training.precision import arithmetic

Found = TypeVar("Found", Outputs, TokenOutputs)


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
) -> Iterator[Any]:
    """Yield what `call` says of each batch.

    Args:
        call: A method of the task's work, such as `outputs`.
        parts: Named modules.
        batches: Padded batches.
        device: Device of the modules.
        check: Called before each batch; may raise to cut the work short.
    """
    with measuring(parts), arithmetic(parts, device):
        for batch in batches:
            if check is not None:
                check()
            yield call(parts, batch.to(device) if device != "cpu" else batch)


def merged(outputs: Sequence[Found]) -> Found:
    """Return outputs as one, in the order of their sample ids, each id once."""
    _, order = np.unique(np.concatenate([output.ids for output in outputs]), return_index=True)
    columns: dict[str, Any] = {field.name: [getattr(output, field.name) for output in outputs] for field in fields(outputs[0])}
    whole: dict[str, Any] = {name: None if found[0] is None else np.concatenate(found)[order] for name, found in columns.items()}
    return type(outputs[0])(**whole)
