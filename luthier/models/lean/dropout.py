"""Dropout with masks from 16-bit random numbers, in place of torch's."""

from __future__ import annotations

from torch import Tensor, nn

from luthier.models.lean.random_bits import dropout_mask


class FastDropout(nn.Dropout):
    """Drops and scales like `torch.nn.Dropout`, whose field `p` it has."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with elements dropped, while training."""
        if not self.training or not self.p or not input.is_floating_point():
            return super().forward(input)
        return input * dropout_mask(tuple(input.shape), self.p, input.dtype, input.device)


def swap_dropouts(model: nn.Module) -> int:
    """Replace every `torch.nn.Dropout` of a model in training mode; returns how many there were. Those of frozen layers stay off."""
    swapped = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout and child.training:
                setattr(module, name, FastDropout(child.p))
                swapped += 1
    return swapped
