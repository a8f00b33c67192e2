"""Cross-entropy and its gradients, a block of logits at a time; on a CPU each core has chunks of its own.

N supervised positions, R of them in a chunk, P in the chunks whose exponentials are kept together, H width of a state, V words, K of them
in a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from luthier.core.side_by_side import num_cores, side_by_side
from luthier.losses.vocabulary.cut import Gradients, Head, Kept, Scratch, Smoothing
from luthier.losses.vocabulary.sums import Chunk

Thing = TypeVar("Thing")


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
    mean_word = head.mean_word() if smoothing.share else None
    cuts = range(0, len(states_NH), head.shape.rows)
    spans = [slice(cut, min(cut + head.shape.rows, len(states_NH))) for cut in cuts]
    if not gradients.of_head:
        chunks = [Chunk(span, states_NH, targets_N, head, gradients.states_NH) for span in spans]
        _each_reads_once(chunks, head, states_NH)
        return torch.stack([chunk.finish(smoothing, mean_word)[0] for chunk in chunks]).sum()
    ready, losses = head.cast(), []
    for first in range(0, len(spans), head.shape.chunks):
        group = spans[first : first + head.shape.chunks]
        chunks = [Chunk(span, states_NH, targets_N, ready, gradients.states_NH) for span in group]
        kept = _keeping(chunks, ready, states_NH)
        found = [chunk.finish(smoothing, mean_word) for chunk in chunks]
        losses += [loss for loss, _, _ in found]
        _add_to_head(gradients, chunks, kept, *(torch.cat(parts) for parts in list(zip(*found, strict=True))[1:]))
    if smoothing.share:
        _smooth_head(gradients, states_NH, smoothing.share / head.num_words)
    return torch.stack(losses).sum()


def _each_reads_once(chunks: Sequence[Chunk], head: Head, states_NH: Tensor) -> None:
    """Add every block of words to every chunk; a core casts a block of the weight once for all of its chunks."""

    def add(some: Sequence[Chunk], scratch: Scratch) -> None:
        for words in head.blocks:
            block = head.block(words)
            for chunk in some:
                chunk.add(*block, words, scratch)
        for chunk in [chunk for chunk in some if chunk.is_out_of_range()]:
            chunk.shift(scratch)
            chunk.add_all(head, scratch, None, slice(0))

    shares = _shares(chunks, states_NH)
    side_by_side([partial(add, share, Scratch(head, states_NH)) for share in shares])


def _keeping(chunks: Sequence[Chunk], head: Head, states_NH: Tensor) -> Kept:
    """Add every block of words to every chunk, and return all exponentials."""
    kept = Kept(head, sum(map(len, chunks)), states_NH.device)
    starts = [sum(map(len, chunks[:place])) for place in range(len(chunks))]

    def add(some: Sequence[int], scratch: Scratch) -> None:
        for place in some:
            chunk, rows = chunks[place], slice(starts[place], starts[place] + len(chunks[place]))
            chunk.add_all(head, scratch, kept, rows)
            if chunk.is_out_of_range():
                chunk.shift(scratch)
                chunk.add_all(head, scratch, kept, rows)

    shares = _shares(range(len(chunks)), states_NH)
    side_by_side([partial(add, share, Scratch(head, states_NH)) for share in shares])
    return kept


def _add_to_head(gradients: Gradients, chunks: Sequence[Chunk], kept: Kept, scale_P: Tensor, right_P: Tensor) -> None:
    head = chunks[0].head
    states_PH = torch.cat([chunk.states_RH for chunk in chunks]).float()
    scaled_PH = (states_PH * scale_P[:, None]).to(head.shape.dtype)

    def add(some: Sequence[slice]) -> None:
        for words in some:
            exps_PK = kept.block(words)
            if gradients.weight_VH is not None:
                if exps_PK.dtype == torch.float32:
                    gradients.weight_VH[words].addmm_(exps_PK.t(), scaled_PH)
                else:
                    gradients.weight_VH[words] += exps_PK.t() @ scaled_PH
            if gradients.bias_V is not None:
                gradients.bias_V[words] += exps_PK.t() @ scale_P.to(exps_PK.dtype)

    side_by_side([partial(add, share) for share in _shares(head.blocks, states_PH)])
    targets_P = torch.cat([chunk.targets_R for chunk in chunks])
    if gradients.weight_VH is not None:
        gradients.weight_VH.index_add_(0, targets_P, states_PH * right_P[:, None])
    if gradients.bias_V is not None:
        gradients.bias_V.index_add_(0, targets_P, right_P)


def _shares(things: Sequence[Thing], states: Tensor) -> list[Sequence[Thing]]:
    """Return what each core does; an accelerator has one queue."""
    cores = num_cores() if states.device.type == "cpu" else 1
    return [things[core::cores] for core in range(min(cores, len(things)))]


def _smooth_head(gradients: Gradients, states_NH: Tensor, share: float) -> None:
    if gradients.weight_VH is not None:
        gradients.weight_VH.sub_(share * states_NH.sum(0, dtype=torch.float32))
    if gradients.bias_V is not None:
        gradients.bias_V.sub_(share * len(states_NH))
