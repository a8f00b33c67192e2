"""Putting an adapter into a model without content (a plan), whose modules cannot be moved to another device, nor need to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def staying(host: Any) -> Iterator[None]:
    """Within the context, where the model is only planned, no module is moved; the PEFT library would move each to where it is.

    Args:
        host: A model of transformers.
    """
    from torch import nn

    from luthier.models.content import has_content

    if has_content(host):
        yield
        return
    moved = nn.Module.to
    nn.Module.to = lambda module, *_, **__: module  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.to = moved  # type: ignore[method-assign]
