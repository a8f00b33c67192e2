"""Whether a model has numbers in it, or only their shapes."""

from __future__ import annotations

from torch import nn
from torch._subclasses.fake_tensor import FakeTensor


def has_content(model: nn.Module) -> bool:
    """Whether the parameters hold numbers; those of a model that is only planned do not."""
    return not isinstance(next(model.parameters()), FakeTensor)
