"""Cross-entropy from the states before the vocabulary head: a block of logits at a time, gradients made in the forward pass.

N supervised positions, R of them in a chunk, H width of a state, V words, K of them in a block, B rows, T tokens.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from luthier.core.side_by_side import num_cores
from luthier.losses.vocabulary.blocks import summed_loss
from luthier.losses.vocabulary.cut import Gradients, Head, Shape, Smoothing

Precision = Literal["fp32", "bf16"]
BLOCK_WORDS = 1024  # a block of logits and of the weight stay in the processor's cache
CHUNK_ROWS = 256
LEAST_ROWS = 32  # for each core; fewer are not worth cores of their own
KEPT_BYTES = 64 * 2**20  # of exponentials that are kept for the gradient of the weight
DEVICE_CHUNK_BYTES = 256 * 2**20


def supervised(states_BTH: Tensor, labels_BT: Tensor, ignore: int = -100) -> tuple[Tensor, Tensor]:
    """Return the states that predict a label, and those labels: state t predicts label t + 1.

    Args:
        states_BTH: What the vocabulary head is applied to.
        labels_BT: Token ids, unshifted as Hugging Face models take them.
        ignore: The label of positions that are not learned.

    Shape: states `(N, H)`, labels `(N,)`.
    """
    next_BT = labels_BT[:, 1:]
    wanted_BT = next_BT != ignore
    wanted_N = torch.nn.functional.pad(wanted_BT, (0, 1)).flatten().nonzero().squeeze(1)
    return states_BTH.flatten(0, 1).index_select(0, wanted_N), next_BT[wanted_BT]


def linear_cross_entropy(
    states_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    label_smoothing: float = 0.0,
    z: float = 0.0,
    chunk: int | None = None,
    precision: Precision = "fp32",
) -> Tensor:
    """Return the float32 sum over positions of the cross-entropy of `states @ weight.T + bias`; its gradient can be taken once.

    Args:
        states_NH: States of the supervised positions.
        weight_VH: Weight of the vocabulary head; without `requires_grad` a third of the work is saved.
        targets_N: The right word of each position, 0 to V - 1.
        bias_V: Bias of the head.
        label_smoothing: Share of the probability spread evenly over all words, 0 to below 1.
        z: Weight of the squared log-sum-exp, which keeps logits from drifting; 0 is plain cross-entropy.
        chunk: Positions computed at a time; none: chosen, so that what is kept of them takes at most 64 MiB.
        precision: Arithmetic of the matrix products; log-sum-exp, loss and sums are float32.

    Raises:
        ValueError: if shapes or targets do not fit.

    Reference: chunks and gradient in the forward pass, https://arxiv.org/abs/2410.10989; blocks of the vocabulary,
        https://arxiv.org/abs/2411.09009; z-loss, https://arxiv.org/abs/2204.02311
    """
    _check(states_NH, weight_VH, targets_N, bias_V)
    grad = torch.is_grad_enabled()
    needs_weight = grad and (weight_VH.requires_grad or (bias_V is not None and bias_V.requires_grad))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shape = _shape(states_NH, weight_VH, dtype, chunk, keep=needs_weight)
    settings = (Smoothing(label_smoothing, z), shape, grad)
    return _Chunked.apply(states_NH, weight_VH, bias_V, targets_N, settings)


def _check(states_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, bias_V: Tensor | None) -> None:
    shapes = f"states {tuple(states_NH.shape)}, weight {tuple(weight_VH.shape)}, targets {tuple(targets_N.shape)}"
    if states_NH.ndim != 2 or weight_VH.ndim != 2 or targets_N.ndim != 1:
        raise ValueError(f"got {shapes}; wanted (N, H), (V, H), (N,)")
    if states_NH.shape[1] != weight_VH.shape[1] or len(states_NH) != len(targets_N):
        raise ValueError(f"got {shapes}; wanted (N, H), (V, H), (N,) with the same N and H")
    if bias_V is not None and bias_V.shape != weight_VH.shape[:1]:
        raise ValueError(f"got a bias of {tuple(bias_V.shape)} for {len(weight_VH)} words")
    if len(targets_N) and targets_N.device.type == "cpu" and _has_content(targets_N):
        low, high = (int(value) for value in targets_N.aminmax())
        if low < 0 or high >= len(weight_VH):
            raise ValueError(f"got targets from {low} to {high}; wanted 0 to {len(weight_VH) - 1}: pass supervised positions only")


def _has_content(tensor: Tensor) -> bool:
    """Whether there are values; a plan has tensors of shapes alone, for which no value can be looked at."""
    return type(tensor) is Tensor


def _shape(states_NH: Tensor, weight_VH: Tensor, dtype: torch.dtype, chunk: int | None, *, keep: bool) -> Shape:
    """Return a cut whose blocks stay in the cache; on an accelerator a block is the whole vocabulary."""
    num_rows, num_words = max(len(states_NH), 1), len(weight_VH)
    if states_NH.device.type != "cpu":
        rows = chunk or max(32, DEVICE_CHUNK_BYTES // (num_words * 4))
        return Shape(min(rows, num_rows), 1, num_words, dtype)
    cores = num_cores()
    at_once = num_rows
    if keep:
        at_once = min(at_once, max(32 * cores, KEPT_BYTES // (num_words * dtype.itemsize)))
    groups = math.ceil(num_rows / at_once)
    chunks = cores * math.ceil(num_rows / groups / cores / CHUNK_ROWS) if num_rows >= LEAST_ROWS * cores else 1
    rows = chunk or math.ceil(num_rows / groups / chunks)
    return Shape(min(rows, num_rows), chunks, min(BLOCK_WORDS, num_words), dtype)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        settings: tuple[Smoothing, Shape, bool],
    ) -> Tensor:
        smoothing, shape, grad = settings
        given = (states_NH, weight_VH, bias_V)
        needed = [each if grad and needs else None for each, needs in zip(given, ctx.needs_input_grad[:3], strict=True)]
        gradients = Gradients(*(None if each is None else torch.zeros_like(each, dtype=torch.float32) for each in needed))
        with torch.autocast(states_NH.device.type, enabled=False):
            if _has_content(targets_N):
                loss = summed_loss(states_NH, Head(weight_VH, bias_V, shape), targets_N, smoothing, gradients)
            else:
                loss = states_NH.new_zeros((), dtype=torch.float32)
        ctx.gradients = [
            None if made is None or each is None else made.to(each.dtype)
            for made, each in zip((gradients.states_NH, gradients.weight_VH, gradients.bias_V), needed, strict=True)
        ]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradient of linear_cross_entropy can be taken once; compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None  # handed over whole: autograd need not copy what nothing else holds
        scaled = [None if each is None else each.mul_(grad_output.to(each.dtype)) for each in gradients]
        return *scaled, None, None
