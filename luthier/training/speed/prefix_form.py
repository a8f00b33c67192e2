"""In which form the output of frozen layers is stored: the smallest from which the rest of the model computes the same.

B rows, W windows, T tokens, H width, X items: tokens or windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.work import Batch, Outputs, Parts
from luthier.training.inference import measuring
from luthier.training.precision import autocast
from luthier.training.speed.stand_in import POOLED, TOKENS, Seen, StandIn

CLOSE = {"fp32": 1e-5, "bf16": 0.02}  # of the largest number; bf16 keeps 8 bits, and sums differ with the shape of a batch
Call = Callable[[Parts, Batch], Outputs]


@dataclass(frozen=True)
class Model:
    """What the forward pass to be cut short is.

    Args:
        parts: Named modules.
        call: Gives the outputs of a batch.
        stand_in: In the place of the frozen modules.
        precision: fp32 or bf16.
        device: Device of the modules.
    """

    parts: Parts
    call: Call
    stand_in: StandIn
    precision: str
    device: str

    def outputs(self, batch: Batch, form: str | None = None, states: Tensor | None = None) -> np.ndarray:
        """Return the logits of a batch in evaluation mode; with a form, going on from states."""
        batch = batch.to(self.device)
        with measuring(self.parts), autocast(self.precision, self.device):
            if form is None or states is None:
                return self.call(self.parts, batch).logits_BC
            with self.stand_in.fed(form, states.to(self.device)):
                return self.call(self.parts, batch).logits_BC

    def seen(self, batch: Batch) -> Seen | None:
        """Return what the frozen part gives for a batch as the modules stand: in a training, just as a step would have it."""
        batch = batch.to(self.device)
        with autocast(self.precision, self.device):
            return self.stand_in.seen(lambda: self.call(self.parts, batch))

    def is_close(self, one: Tensor | np.ndarray, other: Tensor | np.ndarray) -> bool:
        """Whether two arrays differ by no more than arithmetic of the run's precision does."""
        first, second = (torch.as_tensor(value).detach().float().cpu() for value in (one, other))
        if first.shape != second.shape or not bool(second.isfinite().all()):
            return False
        return bool((first - second).abs().max() <= CLOSE[self.precision] * max(1.0, float(first.abs().max())))


def items_of(form: str, seen: Seen, batch: Batch) -> Tensor:
    """Return what is stored of a batch, one item after the other, `(X, H)`."""
    mask_WT = batch.inputs["attention_mask"].to(seen.states_WTH.device).bool()
    if form == TOKENS:
        return seen.states_WTH[mask_WT]
    if form == POOLED:
        assert seen.pooled_WH is not None
        return seen.pooled_WH
    return VECTORS[form](seen.states_WTH, mask_WT)


def choose_form(model: Model, batches: Sequence[tuple[Batch, Batch]], *, whole: bool, head: list[nn.Parameter]) -> tuple[str, Seen] | str:
    """Return the smallest form that serves, with what was seen of the first batch; or why there is none.

    Args:
        model: The model, with its modules as in training.
        batches: A few batches, each as it is and with every window cut to one token.
        whole: Whether no more blocks follow, so that one vector for each window may do.
        head: Parameters that start from nothing: while forms are compared they have random values, for a zero tells nothing.
    """
    seen = [model.seen(full) for full, _ in batches]
    if any(one is None for one in seen):
        return "the output of the frozen layers is of no known kind"
    known = [one for one in seen if one is not None]
    if any(one.states_WTH.requires_grad for one in known):
        return "trained weights are used in the frozen layers"
    if any("attention_mask" not in full.inputs for full, _ in batches):
        return "the batches have no attention mask"
    forms = [*([POOLED] if known[0].pooled_WH is not None else []), *VECTORS] if whole else []
    with _random(head):
        wanted = [model.outputs(full) for full, _ in batches]
        for form in [*forms, TOKENS]:
            if all(_serves(model, form, one, pair, logits) for one, pair, logits in zip(known, batches, wanted, strict=True)):
                return form, known[0]
    return "the rest of the model needs more than the output of the frozen layers"


def _serves(model: Model, form: str, seen: Seen, pair: tuple[Batch, Batch], wanted_BC: np.ndarray) -> bool:
    full, short = pair
    try:
        states = seen.states_WTH if form == TOKENS else items_of(form, seen, full)
        given_BC = model.outputs(full if form == TOKENS else short, form, states.detach())
    except Exception:  # the rest of the model is somebody else's code, on an input it may not have been made for
        return False
    return model.is_close(wanted_BC, given_BC)


@contextmanager
def _random(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Within the context, parameters have random values; the global generators are untouched."""
    before = [parameter.detach().clone() for parameter in parameters]
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1.0
            parameter.copy_(scale * torch.randn(parameter.shape, generator=dice))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def _first(states_WTH: Tensor, mask_WT: Tensor) -> Tensor:
    return states_WTH[:, 0]


def _last(states_WTH: Tensor, mask_WT: Tensor) -> Tensor:
    return states_WTH[torch.arange(len(states_WTH), device=states_WTH.device), mask_WT.sum(1) - 1]


def _mean(states_WTH: Tensor, mask_WT: Tensor) -> Tensor:
    mask_WT1 = mask_WT.unsqueeze(-1).to(states_WTH.dtype)
    return (states_WTH * mask_WT1).sum(1) / mask_WT1.sum(1)


def _greatest(states_WTH: Tensor, mask_WT: Tensor) -> Tensor:
    return states_WTH.masked_fill(~mask_WT.unsqueeze(-1), float("-inf")).amax(1)


VECTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "first token": _first,
    "last token": _last,
    "mean": _mean,
    "greatest": _greatest,
}
