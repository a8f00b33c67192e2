"""Cross-entropy and its gradients, a block of logits at a time.

N supervised positions, R of them in a chunk, H width of a state, V words, K of them in a block.

Exponentials are of base 2 (a third of the time of base e on a CPU) and are kept without division by their sum: the sum is known only
after the last block, so it divides the rows of the gradient of the states and of the states themselves. The right word of a position is
left out of the blocks and added in float32, so that a probability near 1 keeps its distance from 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LOG2_E, LN_2 = math.log2(math.e), math.log(2)
LARGEST_SUM = 1e30  # of exponentials shifted by the largest logit of the first block; above it the true largest is looked for


@dataclass(frozen=True)
class Shape:
    """How the loss is cut and computed: positions in a chunk, words in a block, type of the matrix products."""

    rows: int
    words: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Smoothing:
    """What is added to plain cross-entropy: a share spread evenly over the words, and z times the squared log-sum-exp."""

    share: float = 0.0
    z: float = 0.0


@dataclass(frozen=True)
class Gradients:
    """Where gradients are added, in float32; None where one is not wanted."""

    states_NH: Tensor | None
    weight_VH: Tensor | None
    bias_V: Tensor | None

    @property
    def of_head(self) -> bool:
        """Whether the weight or the bias wants one."""
        return self.weight_VH is not None or self.bias_V is not None


class Head:
    """The vocabulary head, cut into blocks of words."""

    def __init__(self, weight_VH: Tensor, bias_V: Tensor | None, shape: Shape) -> None:
        self.weight_VH, self.shape = weight_VH.detach(), shape
        self.bias_V = None if bias_V is None else bias_V.detach().float()
        self.num_words = len(weight_VH)
        starts = range(0, self.num_words, shape.words)
        self.blocks = [slice(start, min(start + shape.words, self.num_words)) for start in starts]

    def cast(self) -> Head:
        """Return the head with its weight in the type of the products."""
        return Head(self.weight_VH.to(self.shape.dtype), self.bias_V, self.shape)

    def block(self, words: slice) -> tuple[Tensor, Tensor | None]:
        """Return a block of the weight in the type of the products, and of the bias."""
        return self.weight_VH[words].to(self.shape.dtype), None if self.bias_V is None else self.bias_V[words]

    def mean_word(self) -> tuple[Tensor, Tensor | float]:
        """Return the mean row of the weight and the mean bias."""
        mean_H = self.weight_VH.sum(0, dtype=torch.float32) / self.num_words
        return mean_H, 0.0 if self.bias_V is None else self.bias_V.mean()


class Scratch:
    """Memory that every block uses again: logits, their exponentials in float32, and a part of the gradient of the states.

    Args:
        head: Says the sizes.
        states_NH: Says the width and the device.
        keep: Keep the exponentials of a whole chunk, for the gradient of the head.
    """

    def __init__(self, head: Head, states_NH: Tensor, *, keep: bool) -> None:
        shape, device = head.shape, states_NH.device
        rows = min(shape.rows, len(states_NH))
        size = rows * shape.words
        self._exact = torch.empty(size, device=device)
        self._rounded = torch.empty(size if shape.dtype != torch.float32 else 0, device=device, dtype=shape.dtype)
        self._kept = torch.empty(rows * head.num_words if keep else 0, device=device, dtype=shape.dtype)
        self._part = torch.empty(rows * states_NH.shape[1], device=device, dtype=shape.dtype)
        self._keep, self._is_float = keep, shape.dtype == torch.float32

    def block(self, num_rows: int, words: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return where logits, float32 exponentials and exponentials for the products of a block go; some share their memory."""
        num_words = words.stop - words.start
        cut = (num_rows, num_words)
        kept_RK = self.kept(num_rows, words) if self._keep else None
        if self._is_float:
            exact_RK = self._exact[: num_rows * num_words].view(cut) if kept_RK is None else kept_RK
            return exact_RK, exact_RK, exact_RK
        exact_RK, rounded_RK = (flat[: num_rows * num_words].view(cut) for flat in (self._exact, self._rounded))
        return rounded_RK, exact_RK, rounded_RK if kept_RK is None else kept_RK

    def kept(self, num_rows: int, words: slice) -> Tensor:
        """Return the kept exponentials of a block."""
        return self._kept[num_rows * words.start : num_rows * words.stop].view(num_rows, -1)

    def part(self, num_rows: int, width: int) -> Tensor:
        """Return memory for a product with the width of the states."""
        return self._part[: num_rows * width].view(num_rows, width)


class Chunk:
    """Some positions: their states, and what is summed over the words.

    Args:
        rows: Which positions.
        states_NH: All states.
        targets_N: All right words.
        head: The vocabulary head.
        grad_states_NH: Where the gradient of the states is added, or None.
    """

    def __init__(self, rows: slice, states_NH: Tensor, targets_N: Tensor, head: Head, grad_states_NH: Tensor | None) -> None:
        self.states_RH, self.targets_R, self.head = states_NH[rows].detach(), targets_N[rows], head
        self.cast_RH = self.states_RH.to(head.shape.dtype)
        self.grad_RH = None if grad_states_NH is None else grad_states_NH[rows]
        self.shift_R1: Tensor | None = None
        self._start()
        self._own = self._own_words()

    def __len__(self) -> int:
        return len(self.targets_R)

    def add(self, weight_KH: Tensor, bias_K: Tensor | None, words: slice, scratch: Scratch) -> None:
        """Add a block of words to the sums, and to the gradient of the states."""
        logits_RK, exact_RK, exps_RK = scratch.block(len(self), words)
        self._logits(weight_KH, bias_K, logits_RK, exact_RK)
        if self.shift_R1 is None:
            self.shift_R1 = exact_RK.amax(1, keepdim=True) * LOG2_E
        torch.sub(exact_RK.mul_(LOG2_E), self.shift_R1, out=exact_RK)
        rows, columns = self._own[words.start]
        if len(rows):
            self.own_R[rows] = exact_RK[rows, columns]
        exact_RK.exp2_()
        self.sum_R += exact_RK.sum(1)
        if len(rows):
            exact_RK[rows, columns] = 0.0
        if exps_RK is not exact_RK:
            exps_RK.copy_(exact_RK)
        if self.grad_RH is None:
            return
        if exps_RK.dtype == torch.float32:
            self.grad_RH.addmm_(exps_RK, weight_KH)
        else:
            self.grad_RH += torch.mm(exps_RK, weight_KH, out=scratch.part(*self.grad_RH.shape))

    def is_too_high(self) -> bool:
        """Whether a later block was so far above the first one that the sums are not to be trusted."""
        return len(self.head.blocks) > 1 and not bool((self.sum_R <= LARGEST_SUM).all())

    def start_again(self, scratch: Scratch) -> None:
        """Begin anew with the largest logit of all blocks."""
        highest_R1 = torch.full_like(self.sum_R, -math.inf)[:, None]
        for words in self.head.blocks:
            logits_RK, exact_RK, _ = scratch.block(len(self), words)
            self._logits(*self.head.block(words), logits_RK, exact_RK)
            highest_R1 = torch.maximum(highest_R1, exact_RK.amax(1, keepdim=True))
        self._start()
        self.shift_R1 = highest_R1 * LOG2_E

    def finish(self, smoothing: Smoothing, mean_word: tuple[Tensor, Tensor | float] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed loss, what the exponentials are multiplied by, and the slope of the right word's logit.

        The gradient of the states is complete afterwards.
        """
        assert self.shift_R1 is not None
        own_R, weight = self.own_R * LN_2, self.head.weight_VH
        loss_R = self.sum_R.log() - own_R
        lse_R = loss_R + own_R + self.shift_R1[:, 0] * LN_2
        slope_R = 1 + 2 * smoothing.z * lse_R
        scale_R = slope_R / self.sum_R
        right_R = self.own_R.exp2() * scale_R - (1 - smoothing.share)
        loss = loss_R.sum()
        if smoothing.z:
            loss = loss + smoothing.z * lse_R.square().sum()
        if mean_word is not None:
            mean_R = self.states_RH.float() @ mean_word[0] + mean_word[1]
            loss = loss + smoothing.share * (lse_R - loss_R - mean_R).sum()
        if self.grad_RH is not None:
            self.grad_RH *= scale_R[:, None]
            self.grad_RH += right_R[:, None] * weight[self.targets_R].float()
            if mean_word is not None:
                self.grad_RH -= smoothing.share * mean_word[0]
        return loss, scale_R, right_R

    def _start(self) -> None:
        self.sum_R = torch.zeros(len(self.targets_R), device=self.states_RH.device)
        self.own_R = torch.zeros_like(self.sum_R)
        if self.grad_RH is not None:
            self.grad_RH.zero_()

    def _logits(self, weight_KH: Tensor, bias_K: Tensor | None, logits_RK: Tensor, exact_RK: Tensor) -> None:
        torch.mm(self.cast_RH, weight_KH.t(), out=logits_RK)
        if exact_RK is not logits_RK:
            exact_RK.copy_(logits_RK)
        if bias_K is not None:
            exact_RK += bias_K

    def _own_words(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return for each block the rows whose right word is in it, and its column."""
        blocks = self.head.blocks
        if len(blocks) == 1:
            return {0: (torch.arange(len(self), device=self.targets_R.device), self.targets_R)}
        sorted_R, order_R = self.targets_R.sort()
        starts = torch.tensor([words.start for words in blocks[1:]], device=sorted_R.device)
        cuts = [0, *torch.searchsorted(sorted_R, starts).tolist(), len(self)]
        return {
            words.start: (order_R[first:last], sorted_R[first:last] - words.start)
            for words, first, last in zip(blocks, cuts, cuts[1:], strict=False)
        }


def summed_loss(states_NH: Tensor, head: Head, targets_N: Tensor, smoothing: Smoothing, gradients: Gradients) -> Tensor:
    """Return the summed loss and add the wanted gradients.

    Args:
        states_NH: States of all positions.
        head: The vocabulary head.
        targets_N: Right words.
        smoothing: What is added to plain cross-entropy.
        gradients: Where gradients go; the states' must be zero.
    """
    if not len(states_NH):
        return torch.zeros((), device=states_NH.device)
    scratch = Scratch(head, states_NH, keep=gradients.of_head)
    cuts = range(0, len(states_NH), head.shape.rows)
    mean_word = head.mean_word() if smoothing.share else None
    if not gradients.of_head:
        chunks = [Chunk(slice(cut, cut + head.shape.rows), states_NH, targets_N, head, gradients.states_NH) for cut in cuts]
        _over_words(chunks, head, scratch)
        return torch.stack([chunk.finish(smoothing, mean_word)[0] for chunk in chunks]).sum()
    ready, losses = head.cast(), []
    for cut in cuts:
        chunk = Chunk(slice(cut, cut + head.shape.rows), states_NH, targets_N, ready, gradients.states_NH)
        _over_words([chunk], ready, scratch)
        loss, scale_R, right_R = chunk.finish(smoothing, mean_word)
        losses.append(loss)
        _add_to_head(gradients, chunk, scratch, scale_R, right_R)
    if smoothing.share:
        _smooth_head(gradients, states_NH, smoothing.share / head.num_words)
    return torch.stack(losses).sum()


def _over_words(chunks: list[Chunk], head: Head, scratch: Scratch) -> None:
    """Add every block of words to every chunk; a block of the weight is read and cast once for all of them."""

    def add(some: list[Chunk]) -> None:
        for words in head.blocks:
            block = head.block(words)
            for chunk in some:
                chunk.add(*block, words, scratch)

    add(chunks)
    high = [chunk for chunk in chunks if chunk.is_too_high()]
    for chunk in high:
        chunk.start_again(scratch)
    if high:
        add(high)


def _add_to_head(gradients: Gradients, chunk: Chunk, scratch: Scratch, scale_R: Tensor, right_R: Tensor) -> None:
    scaled_RH = (chunk.states_RH.float() * scale_R[:, None]).to(chunk.head.shape.dtype)
    for words, exps_RK in _kept(chunk, scratch):
        if gradients.weight_VH is not None:
            grad_KH = gradients.weight_VH[words]
            if exps_RK.dtype == torch.float32:
                grad_KH.addmm_(exps_RK.t(), scaled_RH)
            else:
                grad_KH += exps_RK.t() @ scaled_RH
        if gradients.bias_V is not None:
            gradients.bias_V[words] += exps_RK.t() @ scale_R.to(exps_RK.dtype)
    if gradients.weight_VH is not None:
        gradients.weight_VH.index_add_(0, chunk.targets_R, chunk.states_RH.float() * right_R[:, None])
    if gradients.bias_V is not None:
        gradients.bias_V.index_add_(0, chunk.targets_R, right_R)


def _kept(chunk: Chunk, scratch: Scratch) -> Iterator[tuple[slice, Tensor]]:
    for words in chunk.head.blocks:
        yield words, scratch.kept(len(chunk), words)


def _smooth_head(gradients: Gradients, states_NH: Tensor, share: float) -> None:
    if gradients.weight_VH is not None:
        gradients.weight_VH.sub_(share * states_NH.sum(0, dtype=torch.float32))
    if gradients.bias_V is not None:
        gradients.bias_V.sub_(share * len(states_NH))
