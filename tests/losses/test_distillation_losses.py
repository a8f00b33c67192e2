"""What is learnt from a teacher, by hand on small tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from luthier.losses.distillation.layers import hidden_distance, relation_distance
from luthier.losses.distillation.soft_targets import soft_targets
from luthier.losses.distillation.told import Classes, Numbers, Vectors, YesNo
from luthier.losses.distillation.words import Scored, soft_words


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_gradient_of_soft_targets_is_the_difference_of_the_probabilities_times_the_temperature(temperature: float) -> None:
    student, teacher = drawn(4, 3).requires_grad_(), drawn(4, 3, seed=1).requires_grad_()
    found = soft_targets(student, teacher, temperature)
    found.sum.backward()
    by_hand = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1))
    assert student.grad is not None and torch.allclose(student.grad, by_hand, atol=1e-6)
    assert teacher.grad is None and float(found.weight) == 4
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    assert float(found.sum.detach()) == pytest.approx(float((p * (p / q).log()).sum().detach()) * temperature**2, rel=1e-5)


def test_soft_targets_of_labels_are_a_divergence_for_each() -> None:
    student, teacher = drawn(4, 3).requires_grad_(), drawn(4, 3, seed=1)
    found = soft_targets(student, teacher, 2.0, multi_label=True)
    found.sum.backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, 2.0 * ((student / 2).sigmoid() - (teacher / 2).sigmoid()), atol=1e-6)
    assert float(found.weight) == 12


def test_a_student_that_says_what_its_teacher_says_learns_nothing() -> None:
    student = drawn(4, 3).requires_grad_()
    found = soft_targets(student, student.detach() + 7.0, 2.0)
    found.sum.backward()
    assert student.grad is not None and float(student.grad.abs().max()) < 1e-6 and float(found.sum.detach()) < 1e-5


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_words_in_chunks_are_the_whole(chunk: int) -> None:
    states, weight, bias = drawn(10, 6).requires_grad_(), drawn(11, 6, seed=1).requires_grad_(), drawn(11, seed=2).requires_grad_()
    theirs = Scored(drawn(10, 8, seed=3), drawn(13, 8, seed=4), None)
    found = soft_words(Scored(states, weight, bias), theirs, 2.0, chunk=chunk)
    grads = torch.autograd.grad(found, (states, weight, bias))
    whole = soft_targets(functional.linear(states, weight, bias), functional.linear(theirs.states_SH, theirs.weight_VH[:11]), 2.0).sum
    assert float(found.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    for one, other in zip(grads, torch.autograd.grad(whole, (states, weight, bias)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_no_chunk_holds_the_logits_of_all_positions() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    states, weight = drawn(40, 6).requires_grad_(), drawn(50, 6, seed=1).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        soft_words(Scored(states, weight, None), Scored(drawn(40, 6, seed=2), drawn(50, 6, seed=3), None), 2.0, chunk=8)
    assert kept and max(kept) < 8 * 50


@pytest.mark.parametrize("how", ["mse", "cosine"])
def test_padding_is_not_compared(how: str) -> None:
    student, teacher, mask = drawn(2, 3, 4).requires_grad_(), drawn(2, 3, 4, seed=1), torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = hidden_distance(student, teacher, mask, how)  # type: ignore[arg-type]
    found.backward()
    assert student.grad is not None and bool((student.grad[0, 2] == 0).all()) and bool((student.grad[1, 1:] == 0).all())
    pairs = [(student[b, t], teacher[b, t]) for b, t in [(0, 0), (0, 1), (1, 0)]]
    if how == "mse":
        by_hand = sum(float((one - other).square().mean().detach()) for one, other in pairs)
        assert torch.allclose(student.grad[0, 0], 2 * (student - teacher)[0, 0] / 4, atol=1e-6)
    else:
        by_hand = sum(1 - float((one @ other / one.norm() / other.norm()).detach()) for one, other in pairs)
    assert float(found.detach()) == pytest.approx(by_hand, rel=1e-5)


def test_relations_by_hand() -> None:
    """One head, one text of two tokens and a padded one; the widths of student and teacher differ."""
    student, teacher, mask = drawn(1, 3, 2).requires_grad_(), drawn(1, 3, 6, seed=1), torch.tensor([[1, 1, 0]])
    found = relation_distance(student, teacher, mask, 1)
    mine = (student[0, :2] @ student[0, :2].T / 2**0.5).softmax(-1)
    theirs = (teacher[0, :2] @ teacher[0, :2].T / 6**0.5).softmax(-1)
    assert float(found.detach()) == pytest.approx(float((theirs * (theirs / mine).log()).sum().detach()), rel=1e-5)
    found.backward()
    assert student.grad is not None and bool((student.grad[0, 2] == 0).all()) and float(student.grad.abs().max()) > 1e-4


def test_relations_are_those_of_each_head() -> None:
    student, teacher, mask = drawn(2, 5, 4), drawn(2, 5, 8, seed=1), torch.ones(2, 5)
    halves = [relation_distance(student[..., 2 * a : 2 * a + 2], teacher[..., 4 * a : 4 * a + 4], mask, 1) for a in (0, 1)]
    assert float(relation_distance(student, teacher, mask, 2)) == pytest.approx(float(sum(halves)) / 2, rel=1e-5)


# ---- answers of other kinds


def test_numbers_are_compared_in_the_unit_of_the_student() -> None:
    student, teacher = Numbers(torch.tensor([3.0, 5.0]), unit=2.0), Numbers(torch.tensor([1.0, 5.5]), unit=9.0)
    assert float(student.apart(teacher, 4.0)) == pytest.approx((2 / 2) ** 2 + (0.5 / 2) ** 2)


def test_vectors_of_one_width_are_compared_by_their_direction() -> None:
    rows = torch.tensor([0, 0, 1, 1, 1])
    student = Vectors(torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), rows)
    teacher = Vectors(torch.tensor([[9.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), rows)
    assert float(student.apart(teacher, 2.0)) == pytest.approx((0 + 2) / 2 + (0 + 0 + 4) / 3), "each row counts once"


def test_vectors_of_two_widths_are_compared_by_the_cosines_within_a_row() -> None:
    rows = torch.tensor([0, 0, 1, 1, 1])
    student = Vectors(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), rows)  # 1; 0, 1, 0
    teacher = Vectors(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]]), rows)  # 0; 1, 0, 0
    assert float(student.apart(teacher, 2.0)) == pytest.approx(1 + (1 + 1 + 0) / 3)


def test_classes_and_labels_come_in_the_order_of_the_student() -> None:
    scores = drawn(4, 3)
    assert torch.equal(Classes(scores).in_order((2, 0, 1)).scores_NC, scores[:, [2, 0, 1]])
    assert torch.equal(YesNo(scores).in_order((2, 0, 1)).scores, scores[:, [2, 0, 1]])
    assert float(Classes(scores).apart(Classes(scores[:, [1, 2, 0]]).in_order((2, 0, 1)), 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(Classes(scores).apart(Classes(scores[:, [1, 2, 0]]), 2.0)) > 0.1


def test_what_no_row_has_is_no_difference() -> None:
    """Choices that a row has not, and padding, have a score that nothing has."""
    student, teacher = (torch.tensor([[0.1 + extra, 0.5, -1e30], [0.3, 0.2, 0.9]]) for extra in (0.0, 1.0))
    apart = Classes(student.requires_grad_()).apart(Classes(teacher), 2.0)
    apart.backward()
    assert float(apart.detach()) == pytest.approx(float(soft_targets(student[:1, :2].detach(), teacher[:1, :2], 2.0).sum), rel=1e-5)
    assert student.grad is not None and torch.isfinite(student.grad).all() and not student.grad[1].abs().max() > 1e-6
