"""Every registered loss over pairs: a sum, of directions alone, in any order; the numbers are those worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from luthier.core.config import build_registered
from luthier.losses.pairs import pair_losses
from luthier.losses.pairs.pair_loss import Compared, PairLoss, example_texts

every_loss = pytest.mark.parametrize("name", pair_losses.names())
ROOT = math.sqrt(0.5)


def random_pairs(number: int = 8, *, seed: int = 0) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Vectors of so many rows, of which every second one brings a negative along; scores."""
    dice = torch.Generator().manual_seed(seed)
    negatives = list(range(0, number, 2))
    places = {"first": range(number), "second": range(number, 2 * number), "negative": range(2 * number, 2 * number + len(negatives))}
    targets = {name: torch.tensor(list(numbers)) for name, numbers in places.items()} | {"negative_row": torch.tensor(negatives)}
    texts = 2 * number + len(negatives)
    return torch.randn(texts, 6, generator=dice), {**targets, "key": torch.arange(texts)}, torch.rand(number, generator=dice)


def test_the_losses_of_the_issue_are_here() -> None:
    assert {"cosine", "cosent", "multiple-negatives", "triplet"} <= set(pair_losses.names())


@every_loss
def test_example_is_a_sum_with_a_known_weight(name: str) -> None:
    loss, compared = pair_losses.get(name).example()
    assert isinstance(loss, PairLoss)
    value = loss(compared)
    assert value.shape == torch.Size([]) and value.dtype == torch.float32 and float(value) > 0
    assert loss.weight(3) in (1.0, 3.0)
    assert build_registered(pair_losses, loss.model_dump(mode="json"), path="") == (loss, [])


@every_loss
def test_only_directions_count_and_no_order(name: str) -> None:
    vectors_WH, targets, scores_B = random_pairs()
    loss = pair_losses.get(name)()
    expected = float(loss(Compared.of(vectors_WH, targets, scores_B=scores_B)))
    lengths_W1 = torch.rand(len(vectors_WH), 1, generator=torch.Generator().manual_seed(1)) + 0.5
    assert float(loss(Compared.of(vectors_WH * lengths_W1, targets, scores_B=scores_B))) == pytest.approx(expected, rel=1e-5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    turned = {**targets, "first": targets["first"][order], "second": targets["second"][order]}
    turned["negative_row"] = torch.argsort(order)[targets["negative_row"]]
    assert float(loss(Compared.of(vectors_WH, turned, scores_B=scores_B[order]))) == pytest.approx(expected, rel=1e-5)


@every_loss
def test_rows_meet_where_the_loss_says_so(name: str) -> None:
    vectors_WH, targets, scores_B = random_pairs()
    loss, apart = pair_losses.get(name)(), 0.0
    for row in range(8):
        own = targets["negative_row"] == row
        one = {key: targets[key][row : row + 1] for key in ("first", "second")} | {"negative": targets["negative"][own]}
        one |= {"negative_row": torch.zeros(int(own.sum()), dtype=torch.int64), "key": targets["key"]}
        apart += float(loss(Compared.of(vectors_WH, one, scores_B=scores_B[row : row + 1])))
    together = float(loss(Compared.of(vectors_WH, targets, scores_B=scores_B)))
    assert (together == pytest.approx(apart, rel=1e-5)) == loss.additive


@every_loss
@pytest.mark.parametrize("vectors", [torch.ones(7, 4), torch.zeros(7, 4), 1e4 * torch.eye(7, 4)], ids=["equal", "zero", "long"])
def test_the_gradient_is_finite(name: str, vectors: Tensor) -> None:
    leaf = vectors.clone().requires_grad_()
    places = {"first": [0, 3, 5], "second": [1, 4, 6], "negative": [2], "negative_row": [0], "key": [0, 1, 2, 3, 4, 5, 6]}
    targets = {key: torch.tensor(numbers) for key, numbers in places.items()}
    value = pair_losses.get(name)()(Compared.of(leaf, targets, scores_B=torch.tensor([1.0, 0.5, 0.5])))
    value.backward()
    assert torch.isfinite(value) and leaf.grad is not None and torch.isfinite(leaf.grad).all()


def test_values_worked_by_hand() -> None:
    """Cosines of the three rows are 0.6, root of a half and 0; their scores 1, 0.5 and 0."""
    compared = example_texts()
    assert compared.cosines_B.tolist() == pytest.approx([0.6, ROOT, 0.0])
    assert float(pair_losses.get("cosine")()(compared)) == pytest.approx(0.4**2 + (ROOT - 0.5) ** 2, rel=1e-5)
    couples = math.exp(ROOT - 0.6) + math.exp(0 - 0.6) + math.exp(0 - ROOT)
    assert float(pair_losses.get("cosent")(scale=1.0)(compared)) == pytest.approx(math.log(1 + couples), rel=1e-5)
    candidates = [[0.6, 1.0, 0.0, 0.0], [1.4 * ROOT, ROOT, ROOT, ROOT], [-0.6, -1.0, 0.0, 0.0]]
    total = sum(math.log(sum(map(math.exp, line))) - line[row] for row, line in enumerate(candidates))
    assert float(pair_losses.get("multiple-negatives")(scale=1.0)(compared)) == pytest.approx(total, rel=1e-5)
    columns = [[line[column] for line in candidates] for column in range(3)]
    back = sum(math.log(sum(map(math.exp, column))) - column[row] for row, column in enumerate(columns))
    both = pair_losses.get("multiple-negatives")(scale=1.0, symmetric=True)
    assert float(both(compared)) == pytest.approx((total + back) / 2, rel=1e-5)
    # the first row has its negative, at 0; the second the nearest of the others, at 1.4 x root; the third one at 0, beside a cosine of 0
    assert float(pair_losses.get("triplet")(margin=0.5)(compared)) == pytest.approx((0.4 * ROOT + 0.5) + 0.5, rel=1e-5)


def test_equal_texts_are_no_wrong_ones() -> None:
    compared, loss = example_texts(), pair_losses.get("multiple-negatives")(scale=1.0)
    same_first = replace(compared, keys_B2=torch.tensor([[0, 1], [0, 4], [5, 6]]))
    assert same_first.wrong_BC.tolist() == [[False, False, True, True], [False, False, True, True], [True, True, False, True]]
    same_second = replace(compared, keys_B2=torch.tensor([[0, 1], [3, 1], [5, 2]]), negative_key_K=torch.tensor([1]))
    assert same_second.wrong_BC.tolist() == [[False, False, True, False], [False, False, True, False], [True, True, False, True]]
    assert float(loss(same_first)) < float(loss(compared)) and float(loss(same_second)) < float(loss(compared))
