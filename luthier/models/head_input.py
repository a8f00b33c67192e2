"""What the last layer of a classifier reads: one vector for each row of a batch.

W rows or windows of rows, T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, arange, nn

from luthier.core.errors import ConfigError, Fault
from luthier.models.pooled import Cosines


@contextmanager
def head_input(model: nn.Module, num_classes: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Within the context, a pass of the model is watched; what is yielded returns what its last layer read, `(W, H)`.

    The last layer is the last matrix with a row for each class that takes part in the pass. Where it reads every token, as in a
    decoder, the last real one counts.

    Args:
        model: A classifier.
        num_classes: Number of classes C.

    Raises:
        ConfigError: from what is yielded, if the scores come from no such matrix.
    """
    fed: list[Tensor] = []

    def remember(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        fed[:] = [inputs[0]]

    def vectors(mask_WT: Tensor) -> Tensor:
        if not fed:
            what = "compares the vectors that the last layer reads, and the scores of this model come from no plain matrix"
            raise ConfigError([Fault("loss.contrast", what, "use model.head.pooling=mean, or leave loss.contrast out")])
        found = fed[0]
        return found if found.ndim == 2 else found[arange(len(found), device=found.device), mask_WT.sum(1).to(found.device) - 1]

    layers = [module for module in model.modules() if isinstance(module, nn.Linear | Cosines) and module.out_features == num_classes]
    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        yield vectors
    finally:
        for hook in hooks:
            hook.remove()
