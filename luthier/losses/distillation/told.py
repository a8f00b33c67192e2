"""What a model says of a batch, in the form in which another model can learn it: what a task reads off a student and off its teacher.

N answers, C classes, B rows, X texts of all rows, H width of a student's vectors, E of its teacher's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.losses.distillation.words import Scored


class Told(ABC):
    """Base of what is said of the answers of a batch, abstract. How many answers there are is known before the forward pass."""

    @abstractmethod
    def apart(self, teacher: Any, temperature: float) -> Tensor:
        """Return how far it is from what a teacher says of the same answers, summed over them.

        Args:
            teacher: Of the same kind.
            temperature: Scores of both are divided by it; numbers and vectors are compared as they are.
        """

    def in_order(self, order: Sequence[int]) -> Told:
        """Return it with the classes in another order: of each the place where it stands now."""
        return self


@final
@dataclass(frozen=True)
class Classes(Told):
    """Which of C classes each answer is.

    Args:
        scores_NC: Scores before softmax, or log-probabilities.
    """

    scores_NC: Tensor

    def apart(self, teacher: Classes, temperature: float) -> Tensor:
        """Return the divergence of the probabilities; see `soft_targets`."""
        from luthier.losses.distillation.soft_targets import soft_targets

        return soft_targets(self.scores_NC, teacher.scores_NC, temperature).sum

    def in_order(self, order: Sequence[int]) -> Classes:
        """Return the classes in another order."""
        return Classes(self.scores_NC[:, list(order)])


@final
@dataclass(frozen=True)
class YesNo(Told):
    """A yes or no for each answer, or for each of C labels of it.

    Args:
        scores: Scores before a sigmoid, `(N,)` or `(N, C)`.
    """

    scores: Tensor

    def apart(self, teacher: YesNo, temperature: float) -> Tensor:
        """Return the divergence of the probabilities; see `soft_targets`."""
        from luthier.losses.distillation.soft_targets import soft_targets

        return soft_targets(self.scores, teacher.scores, temperature, multi_label=True).sum

    def in_order(self, order: Sequence[int]) -> YesNo:
        """Return the labels in another order."""
        return YesNo(self.scores[:, list(order)])


@final
@dataclass(frozen=True)
class Numbers(Told):
    """A number for each answer.

    Args:
        values_N: The numbers, as a person reads them.
        unit: What the student's errors are measured in.
    """

    values_N: Tensor
    unit: float = 1.0

    def apart(self, teacher: Numbers, temperature: float) -> Tensor:
        """Return the squared differences, in the student's unit."""
        return ((self.values_N - teacher.values_N.detach()) / self.unit).square().sum()


@final
@dataclass(frozen=True)
class Vectors(Told):
    """A vector for each text of a row; each row has two texts or more.

    Args:
        vectors_XH: The vectors.
        rows_X: The row of each text, from 0 on.
    """

    vectors_XH: Tensor
    rows_X: Tensor

    def apart(self, teacher: Vectors, temperature: float) -> Tensor:
        """Return how far the directions are apart, the mean over the texts of a row, summed over rows.

        Of vectors of one width it is the squared distance between both at length 1; else the squared difference of the cosines
        between the texts of a row, the mean over its pairs.

        Reference: Reimers and Gurevych, https://arxiv.org/abs/2004.09813
        """
        import torch
        from torch.nn import functional

        with torch.autocast(self.vectors_XH.device.type, enabled=False):
            mine_XH, theirs_XE = (functional.normalize(one.float(), dim=-1) for one in (self.vectors_XH, teacher.vectors_XH.detach()))
            counts_B = self.rows_X.bincount().to(mine_XH.dtype)
            if mine_XH.shape == theirs_XE.shape:
                return ((mine_XH - theirs_XE).square().sum(-1) / counts_B[self.rows_X]).sum()
            together_XX = (self.rows_X[:, None] == self.rows_X).triu(1)
            apart_XX = (mine_XH @ mine_XH.T - theirs_XE @ theirs_XE.T).square() * together_XX
            pairs_B = counts_B * (counts_B - 1) / 2
            return (apart_XX.sum(1) / pairs_B[self.rows_X].clamp(min=1)).sum()


@final
@dataclass(frozen=True)
class Words(Told):
    """Which word of a vocabulary stands at each place: never all scores at once.

    Args:
        scored: States before the vocabulary, and the vocabulary.
    """

    scored: Scored

    def apart(self, teacher: Words, temperature: float) -> Tensor:
        """Return the divergence of the words that both expect; see `soft_words`."""
        from luthier.losses.distillation.words import Scored, soft_words

        theirs = teacher.scored
        bias_V = None if theirs.bias_V is None else theirs.bias_V.detach()
        frozen = Scored(theirs.states_SH.detach(), theirs.weight_VH.detach(), bias_V)
        return soft_words(self.scored, frozen, temperature)
