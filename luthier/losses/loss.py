"""What every loss is. B rows, C classes; single-label targets are class numbers `(B,)`, multi-label ones 0 or 1 `(B, C)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator

from luthier.core.config import Registered, Section, build_registered
from luthier.core.work import Weighted
from luthier.losses.contrasts import USUAL, contrasts

if TYPE_CHECKING:
    from torch import Tensor

ClassWeights = Literal["none", "balanced", "effective"] | dict[str, float]


class Mixup(Section):
    """How rows of a batch are mixed two and two."""

    alpha: float = Field(
        0.4, gt=0, description="How much of a row stays is drawn from Beta(alpha, alpha): low, mostly all or nothing; 1, any share alike."
    )
    at: Literal["words", "head"] = Field(
        "head", description="What is mixed: the word embeddings of two texts, or the vectors that the last layer of the head reads."
    )


class Smart(Section):
    """How answers are kept from changing when texts are moved."""

    weight: float = Field(1.0, gt=0, description="How much it counts beside the loss over classes, which counts 1.")
    steps: int = Field(1, ge=1, description="Moves to where the answer changes most.")
    step_size: float = Field(0.2, gt=0, description="Length of one move, over all tokens of a text together.")
    epsilon: float = Field(0.2, gt=0, description="Longest way from where a text was; the random start is within it.")


class Loss(Registered, ABC):
    """A loss over class logits.

    A new loss says two things: which problems it fits (`problems`), and its value per target (`per_target`).
    """

    problems: ClassVar[frozenset[str]] = frozenset({"single-label"})
    class_weights: ClassWeights = Field(
        "none",
        description="Weight of each class: none, balanced (rare classes count more), effective (the same, but gentler: by effective "
        "number of rows), or a number for each label name.",
    )
    effective_beta: float = Field(
        0.999, gt=0, lt=1, description="For effective weights: near 1 they are those of balanced, near 0 all classes weigh the same."
    )
    r_drop: float = Field(
        0.0,
        ge=0,
        description="R-Drop: every text goes through the model twice, with other dropout, and the two answers are drawn together "
        "with this weight; 0: once.",
    )
    contrast: SerializeAsAny[Registered] | None = Field(
        None,
        description="Draws the vectors of a batch's rows together where the class is the same and apart where it is not: a name, or "
        "{type: NAME, ...} with settings; none: not.",
    )
    mixup: Mixup | None = Field(None, description="Mixes every row with another one of its batch, and their labels; none: not.")

    smart: Smart | None = Field(
        None, description="SMART: how far answers go when the word embeddings of a text are moved is added to the loss; none: not."
    )

    @field_validator("contrast", mode="before")
    @classmethod
    def _built(cls, given: Any) -> Any:
        if given is None:
            return None
        built, faults = build_registered(contrasts, {"type": USUAL, **given} if isinstance(given, Mapping) else given, path="")
        if faults:
            raise ValueError("; ".join(": ".join(filter(None, [fault.path.strip("."), fault.message, fault.fix])) for fault in faults))
        return built

    @property
    def cosine_scale(self) -> float | None:
        """What the scores of the head have to be: cosines times this; none: any scores."""
        return None

    @abstractmethod
    def per_target(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the unweighted loss of each target, in the shape of `targets`."""

    @classmethod
    @abstractmethod
    def example(cls) -> tuple[Loss, Tensor, Tensor]:
        """Return a loss, logits and targets that the contract tests run on."""

    def __call__(self, logits_BC: Tensor, targets: Tensor, class_weight_C: Tensor | None = None) -> Weighted:
        """Return the weighted sum of the loss and the sum of the weights, in float32.

        Args:
            logits_BC: Scores before softmax or sigmoid.
            targets: Class numbers `(B,)`, or 0/1 `(B, C)`.
            class_weight_C: Weight of each class; none counts every class once.

        Shape: both results are scalars.
        """
        weights = target_weights(targets, class_weight_C)
        return Weighted((self.per_target(logits_BC.float(), targets) * weights).sum(), weights.sum())


def disagreement(one_BC: Tensor, other_BC: Tensor, targets: Tensor) -> Weighted:
    """Return how far two answers are apart: the mean of both Kullback-Leibler divergences, summed, and the number of targets.

    Args:
        one_BC: Scores before softmax or sigmoid.
        other_BC: Scores of the same rows.
        targets: As in a loss; they tell classes from labels.

    Reference: R-Drop, https://arxiv.org/abs/2106.14448
    """
    one_BC, other_BC = one_BC.float(), other_BC.float()
    number = one_BC.new_tensor(float(targets.numel()))
    if targets.ndim == 1:
        difference_BC = one_BC.softmax(-1) - other_BC.softmax(-1)
        return Weighted((difference_BC * (one_BC.log_softmax(-1) - other_BC.log_softmax(-1))).sum() / 2, number)
    return Weighted(((one_BC.sigmoid() - other_BC.sigmoid()) * (one_BC - other_BC)).sum() / 2, number)


def target_weights(targets: Tensor, class_weight_C: Tensor | None) -> Tensor:
    """Return the weight of each target: its class's weight; a label that is absent (0 of 0/1) weighs 1."""
    import torch

    if class_weight_C is None:
        return torch.ones_like(targets, dtype=torch.float32)
    if targets.ndim == 1:
        return class_weight_C[targets]
    return torch.where(targets > 0, class_weight_C, torch.ones_like(class_weight_C))
