"""What is summed over the words for some positions: their exponentials, and the gradient of their states.

N supervised positions, R of them in a chunk, H width of a state, V words, K of them in a block.

Exponentials are kept without division by their sum: the sum is known only after the last block, so it divides the rows of the gradient of
the states and of the states themselves. They are not shifted by the largest logit either, unless their sum leaves the range of float32.
The right word of a position is left out of the blocks and added in float32, so that a probability near 1 keeps its distance from 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luthier.losses.vocabulary.cut import LOG2_E, Head, Kept, Scratch, Smoothing

LN_2 = math.log(2)
SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e30  # of exponentials; outside, logits are shifted by the largest


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
        self._bits_RH = (self.states_RH.float() * LOG2_E).to(head.shape.dtype)
        self.grad_RH = None if grad_states_NH is None else grad_states_NH[rows]
        self._shift_R1: Tensor | None = None
        self._own = self._own_words()
        self._start()

    def __len__(self) -> int:
        return len(self.targets_R)

    def add_all(self, head: Head, scratch: Scratch, kept: Kept | None, rows: slice) -> None:
        """Add every block of words; of `kept`, the chunk has these rows."""
        for words in head.blocks:
            self.add(*head.block(words), words, scratch, None if kept is None else kept.block(words)[rows])

    def add(self, weight_KH: Tensor, bias_K: Tensor | None, words: slice, scratch: Scratch, kept_RK: Tensor | None = None) -> None:
        """Add a block of words to the sums, and to the gradient of the states; its exponentials are left in `kept_RK`."""
        logits_RK, exact_RK, exps_RK = scratch.block(len(self), words.stop - words.start, kept_RK)
        self._logits(weight_KH, bias_K, logits_RK, exact_RK)
        rows, columns = self._own[words.start]
        if len(rows):
            self._own_R[rows] = exact_RK[rows, columns]
        exact_RK.exp2_()
        if len(rows):
            exact_RK[rows, columns] = 0.0
        self._others_R += exact_RK.sum(1)
        if exps_RK is not exact_RK:
            exps_RK.copy_(exact_RK)
        if self.grad_RH is None:
            return
        if exps_RK.dtype == torch.float32:
            self.grad_RH.addmm_(exps_RK, weight_KH)
        else:
            self.grad_RH += torch.mm(exps_RK, weight_KH, out=scratch.part(*self.grad_RH.shape))

    def is_out_of_range(self) -> bool:
        """Whether a sum is too small or too large to be trusted."""
        sum_R = self._others_R + self._own_R.exp2()
        return not bool(((sum_R >= SMALLEST_SUM) & (sum_R <= LARGEST_SUM)).all())

    def shift(self, scratch: Scratch) -> None:
        """Begin anew, with logits shifted by the largest of their position."""
        highest_R1 = torch.full_like(self._own_R, -math.inf)[:, None]
        self._shift_R1 = None
        for words in self.head.blocks:
            logits_RK, exact_RK, _ = scratch.block(len(self), words.stop - words.start, None)
            self._logits(*self.head.block(words), logits_RK, exact_RK)
            highest_R1 = torch.maximum(highest_R1, exact_RK.amax(1, keepdim=True))
        self._start()
        self._shift_R1 = highest_R1

    def finish(self, smoothing: Smoothing, mean_word: tuple[Tensor, Tensor | float] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed loss, what the exponentials are multiplied by, and the slope of the right word's logit.

        The gradient of the states is complete afterwards.
        """
        weight, own_R = self.head.weight_VH, self._own_R
        exp_R = own_R.exp2()
        sum_R = self._others_R + exp_R
        loss_R = torch.where(exp_R > self._others_R, (self._others_R / exp_R).log1p(), sum_R.log() - own_R * LN_2)
        shift_R = 0.0 if self._shift_R1 is None else self._shift_R1[:, 0]
        logit_R = (own_R + shift_R) * LN_2
        lse_R = loss_R + logit_R
        slope_R = 1 + 2 * smoothing.z * lse_R
        scale_R = slope_R / sum_R
        right_R = (slope_R - 1) + smoothing.share - self._others_R * scale_R
        loss = loss_R.sum()
        if smoothing.z:
            loss = loss + smoothing.z * lse_R.square().sum()
        if mean_word is not None:
            mean_R = self.states_RH.float() @ mean_word[0] + mean_word[1]
            loss = loss + smoothing.share * (logit_R - mean_R).sum()
        if self.grad_RH is not None:
            self.grad_RH *= scale_R[:, None]
            self.grad_RH += right_R[:, None] * weight[self.targets_R].float()
            if mean_word is not None:
                self.grad_RH -= smoothing.share * mean_word[0]
        return loss, scale_R, right_R

    def _start(self) -> None:
        self._others_R = torch.zeros(len(self.targets_R), device=self.states_RH.device)
        self._own_R = torch.zeros_like(self._others_R)
        if self.grad_RH is not None:
            self.grad_RH.zero_()

    def _logits(self, weight_KH: Tensor, bias_K: Tensor | None, logits_RK: Tensor, exact_RK: Tensor) -> None:
        torch.mm(self._bits_RH, weight_KH.t(), out=logits_RK)
        if exact_RK is not logits_RK:
            exact_RK.copy_(logits_RK)
        if bias_K is not None:
            exact_RK += bias_K
        if self._shift_R1 is not None:
            exact_RK -= self._shift_R1

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
