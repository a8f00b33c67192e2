"""Every registered contrast: directions alone count, rows without others add nothing, and the numbers are those worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from luthier.core.config import build_registered
from luthier.losses.contrasts import contrasts
from luthier.losses.contrasts.contrast import Contrast

every_contrast = pytest.mark.parametrize("name", contrasts.names())


def random_rows(*, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors and classes of 16 rows; one class has a single row."""
    dice = torch.Generator().manual_seed(seed)
    targets_B = torch.randint(3, (16,), generator=dice)
    targets_B[5] = 3
    return torch.randn(16, 6, generator=dice), targets_B


def test_the_contrasts_of_the_issue_are_here() -> None:
    assert {"supervised-contrastive", "circle", "triplet"} <= set(contrasts.names())


@every_contrast
def test_example_is_a_sum_over_known_anchors(name: str) -> None:
    contrast, vectors_BH, targets_B = contrasts.get(name).example()
    assert isinstance(contrast, Contrast)
    value = contrast(vectors_BH, targets_B)
    assert value.sum.shape == torch.Size([]) and value.sum.dtype == torch.float32 and float(value.sum) > 0
    assert contrast.anchors(targets_B).tolist() == [True, True, True, True, False] and float(value.weight) == 4
    assert build_registered(contrasts, contrast.model_dump(mode="json"), path="") == (contrast, [])


@every_contrast
def test_only_directions_count_and_no_order(name: str) -> None:
    contrast, (vectors_BH, targets_B) = contrasts.get(name)(), random_rows()
    expected = float(contrast(vectors_BH, targets_B).sum)
    lengths_B1 = torch.rand(16, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    assert float(contrast(vectors_BH * lengths_B1, targets_B).sum) == pytest.approx(expected, rel=1e-5)
    order_B = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    assert float(contrast(vectors_BH[order_B], targets_B[order_B]).sum) == pytest.approx(expected, rel=1e-5)
    assert float(contrast(vectors_BH, 3 - targets_B).sum) == pytest.approx(expected, rel=1e-6), "classes have no order either"


@every_contrast
def test_classes_that_lie_apart_cost_less_than_classes_that_do_not(name: str) -> None:
    contrast, (vectors_BH, targets_B) = contrasts.get(name)(), random_rows()
    apart_BH = functional.one_hot(targets_B, 6).float() + 0.01 * vectors_BH
    assert float(contrast(apart_BH, targets_B).sum) < 0.3 * float(contrast(vectors_BH, targets_B).sum)


@every_contrast
@pytest.mark.parametrize("targets", [[0], [0, 1, 2], []], ids=["one row", "all alone", "no row"])
def test_rows_without_others_add_nothing(name: str, targets: list[int]) -> None:
    vectors_BH = torch.randn(len(targets), 4, requires_grad=True)
    value = contrasts.get(name)()(vectors_BH, torch.tensor(targets, dtype=torch.int64))
    value.sum.backward()
    assert float(value.sum) == float(value.weight) == 0 and vectors_BH.grad is not None and not vectors_BH.grad.any()


@every_contrast
@pytest.mark.parametrize("vectors", [torch.ones(6, 4), torch.zeros(6, 4), 1e4 * torch.eye(6, 4)], ids=["equal", "zero", "long"])
def test_the_gradient_is_finite_in_bfloat16_too(name: str, vectors: Tensor) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        leaf = vectors.to(dtype).clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = contrasts.get(name)()(leaf, torch.tensor([0, 0, 0, 1, 1, 2]))
        value.sum.backward()
        assert value.sum.dtype == torch.float32 and torch.isfinite(value.sum)
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


def test_supervised_contrastive_is_the_papers_sum() -> None:
    vectors_BH, targets_B = random_rows()
    units_BH, total = functional.normalize(vectors_BH.double()), 0.0
    for anchor in range(16):
        others = [row for row in range(16) if row != anchor]
        positives = [row for row in others if targets_B[row] == targets_B[anchor]]
        powers = {row: math.exp(float(units_BH[anchor] @ units_BH[row]) / 0.2) for row in others}
        total += sum(-math.log(powers[row] / sum(powers.values())) for row in positives) / max(len(positives), 1)
    assert float(contrasts.get("supervised-contrastive")(temperature=0.2)(vectors_BH, targets_B).sum) == pytest.approx(total, rel=1e-5)


def test_values_worked_by_hand() -> None:
    """An anchor at (1, 0), one of its class at (0, 1), one of another at (-1, 0): likeness 0, -1 and 0."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1])
    contrastive = contrasts.get("supervised-contrastive")(temperature=1.0)
    assert float(contrastive(*rows).sum) == pytest.approx(math.log(1 + math.exp(-1)) + math.log(2), rel=1e-5)
    root = math.sqrt(2)  # distances: root to their class; 2 and root to the other
    assert float(contrasts.get("triplet")(margin=1.0)(*rows).sum) == pytest.approx((root - 2 + 1) + 1, rel=1e-5)
    circle = contrasts.get("circle")(margin=0.25, scale=1.0)
    within = 1.25 * 0.75  # both lack 1.25 of their aim, and 0.75 of the margin
    expected = math.log(1 + math.exp(within)) + math.log(1 + math.exp(within + 0.25 * (0 - 0.25)))
    assert float(circle(*rows).sum) == pytest.approx(expected, rel=1e-5)
