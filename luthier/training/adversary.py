"""Moving the word embeddings of texts: by noise, or up the loss. Lengths are those of a whole text, all its tokens together.

What is done to a text does not depend on the others of its batch, nor on padding.

B rows of the layout, T tokens, H width, N texts (or windows of texts).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch, Parts

DRAWS = 2**52  # a float64 holds every number below


@dataclass(frozen=True)
class Texts:
    """Which text each token of a batch is of.

    Args:
        number_BT: Number of the text.
        real_BT: False for padding.
        names_N: What tells each text apart in the whole run: its row's id, and its number in the row.
    """

    number_BT: Tensor
    real_BT: Tensor
    names_N: list[tuple[int, int]]

    @classmethod
    def of(cls, batch: Batch) -> Texts:
        """Read them off the inputs: a row each, or, where rows are laid end to end, one from each position 0 to the next."""
        ids_BT = batch.inputs["input_ids"]
        mask, positions = batch.inputs.get("attention_mask"), batch.inputs.get("position_ids")
        real_BT = mask != 0 if mask is not None and mask.shape == ids_BT.shape else torch.ones_like(ids_BT, dtype=torch.bool)
        if positions is not None:
            number_BT = ((positions == 0).flatten().cumsum(0) - 1).view_as(ids_BT)
        else:
            number_BT = torch.arange(len(ids_BT), device=ids_BT.device).unsqueeze(1).expand_as(ids_BT)
        return cls(number_BT, real_BT, _names(batch, int(number_BT.max()) + 1))

    def lengths(self, values_BTH: Tensor) -> Tensor:
        """Return at each token the length of its text's values, `(B, T, 1)`."""
        squares_BT = values_BTH.float().square().sum(-1) * self.real_BT
        sums_N = squares_BT.new_zeros(len(self.names_N)).index_add_(0, self.number_BT.flatten(), squares_BT.flatten())
        return sums_N.sqrt()[self.number_BT].unsqueeze(-1)

    def noise(self, key: tuple[int, ...], width: int) -> Tensor:
        """Return numbers even between -1 and 1 divided by the root of how many a text has, `(B, T, H)`; 0 at padding.

        Args:
            key: Together with the name of a text decides its numbers.
            width: H.
        """
        found = torch.zeros(*self.number_BT.shape, width)
        number_BT, real_BT = self.number_BT.cpu(), self.real_BT.cpu()
        for number, name in enumerate(self.names_N):
            here = (number_BT == number) & real_BT
            tokens = int(here.sum())
            dice = np.random.Generator(np.random.SFC64([*key, *name]))
            drawn = dice.random((tokens, width), dtype=np.float32) * 2 - 1
            found[here] = torch.from_numpy(drawn) / max(tokens * width, 1) ** 0.5
        return found.to(self.number_BT.device)


@dataclass(frozen=True)
class Words:
    """The word embedding of the trained model.

    Args:
        module: Looks ids up.
        width: Its width H.
    """

    module: nn.Module
    width: int

    @classmethod
    def of(cls, parts: Parts) -> Words:
        """Find it.

        Raises:
            ConfigError: if no trained part has one.
        """
        for part in parts.values():
            module = _embedding(part.module) if part.mode == "trained" else None
            if module is not None:
                return cls(module, int(module.weight.shape[-1]))
        what = "no trained part has word embeddings that could be moved"
        raise ConfigError([Fault("training.step_rule", what, "use training.step_rule=accumulate or sam, and leave training.neftune out")])

    def still(self, batch: Batch) -> Tensor:
        """Return no move at all, whose gradient is that of the embeddings, `(B, T, H)`."""
        ids_BT = batch.inputs["input_ids"]
        return torch.zeros(*ids_BT.shape, self.width, device=ids_BT.device, requires_grad=True)

    @contextmanager
    def moved(self, by_BTH: Tensor) -> Iterator[None]:
        """Within the context, forward passes go on from embeddings that are moved."""

        def move(_: nn.Module, __: Any, looked_up: Tensor) -> Tensor:
            return looked_up + by_BTH.to(looked_up.dtype) if looked_up.shape == by_BTH.shape else looked_up

        hook = self.module.register_forward_hook(move)
        try:
            yield
        finally:
            hook.remove()


@dataclass(frozen=True)
class Ascent:
    """How a text is moved up the loss.

    Args:
        step_size: Length of one move.
        epsilon: Longest way from where the text was.
    """

    step_size: float
    epsilon: float

    def climbed(self, by_BTH: Tensor, gradient_BTH: Tensor, texts: Texts) -> Tensor:
        """Return the move after one more step along the gradient; a text without gradient stays."""
        up_BTH = gradient_BTH.float() * texts.real_BT.unsqueeze(-1)
        steepness = texts.lengths(up_BTH)
        up_BTH = torch.where(steepness > 0, up_BTH / steepness, torch.zeros_like(up_BTH))
        moved_BTH = by_BTH.detach() + self.step_size * up_BTH
        return moved_BTH * (self.epsilon / texts.lengths(moved_BTH).clamp(min=1e-12)).clamp(max=1.0)


def _embedding(model: nn.Module) -> Any:
    """Return the word embedding of the first model in it that names one, or None; what wraps a model names none.

    Of an encoder-decoder it is that of the encoder, whatever else shares its weights.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "get_input_embeddings"):
            reader = module.get_encoder() if getattr(getattr(module, "config", None), "is_encoder_decoder", False) else module
            try:
                found = reader.get_input_embeddings()
            except (NotImplementedError, AttributeError):
                continue
            if isinstance(getattr(found, "weight", None), Tensor):
                return found
    return None


def _names(batch: Batch, num_texts: int) -> list[tuple[int, int]]:
    """Return the name of each text; windows of one row are numbered."""
    owners = batch.targets.get("window_row")
    rows = list(range(num_texts)) if owners is None else owners.tolist()
    if owners is None and num_texts != len(batch.ids):
        return [(batch.ids[0], number) for number in rows]
    seen: dict[int, int] = {}
    names = []
    for row in rows:
        seen[row] = seen.get(row, -1) + 1
        names.append((int(batch.ids[row]), seen[row]))
    return names
