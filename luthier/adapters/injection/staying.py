"""Putting an adapter into a model without content (a plan), whose modules cannot be moved to another device, nor need to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def staying(host: Any) -> Iterator[None]:
    """Within the context, where the model is only planned, no module is moved, as the PEFT library would to where it is.

    A copy of a tensor without content is a tensor alike. Python's own way copies with it the mode that it was made in, whose references
    to memory are then given back twice, so that the process crashes.

    Args:
        host: A model of transformers.
    """
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensor

    from luthier.models.content import has_content

    if has_content(host):
        yield
        return
    moved = nn.Module.to
    nn.Module.to = lambda module, *_, **__: module  # type: ignore[assignment, method-assign]
    FakeTensor.__deepcopy__ = _copied  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.to = moved  # type: ignore[method-assign]
        del FakeTensor.__deepcopy__


def _copied(tensor: Any, memo: dict[int, Any]) -> Any:
    from torch import nn

    made = tensor.detach().clone()
    memo[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
    return memo[id(tensor)]
