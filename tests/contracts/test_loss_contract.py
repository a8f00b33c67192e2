"""Every registered loss: (sum, weight) that any split of the batch adds up to, finite in bfloat16, equal to torch's own numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from luthier.losses import losses
from luthier.losses.loss import Loss, target_weights

every_loss = pytest.mark.parametrize("name", losses.names())
every_problem = pytest.mark.parametrize(
    ("name", "problem"), [(name, problem) for name in losses.names() for problem in sorted(losses.get(name).problems)]
)
NUM_ROWS, NUM_CLASSES = 24, 5
WEIGHT_C = torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0])


def random_batch(problem: str, *, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits and targets of 24 rows and 5 classes."""
    dice = torch.Generator().manual_seed(seed)
    logits_BC = torch.randn(NUM_ROWS, NUM_CLASSES, generator=dice) * scale
    if problem == "single-label":
        return logits_BC, torch.randint(NUM_CLASSES, (NUM_ROWS,), generator=dice)
    return logits_BC, torch.randint(2, (NUM_ROWS, NUM_CLASSES), generator=dice)


def gradient(loss: Loss, logits_BC: Tensor, targets: Tensor, cuts: list[int], class_weight_C: Tensor | None) -> tuple[float, float, Tensor]:
    """Sum, weight and the gradient of sum / weight, with the batch cut into parts as the training loop does it."""
    leaf = logits_BC.clone().requires_grad_()
    whole = float(target_weights(targets, class_weight_C).sum())
    sums, weights = 0.0, 0.0
    for part, wanted in zip(leaf.split(cuts), targets.split(cuts), strict=True):
        value = loss(part, wanted, class_weight_C)
        (value.sum / whole).backward()
        sums, weights = sums + float(value.sum.detach()), weights + float(value.weight)
    assert weights == pytest.approx(whole, rel=1e-6), "the weight must be known from the targets alone"
    assert leaf.grad is not None
    return sums, weights, leaf.grad


def test_the_losses_of_the_issue_are_here() -> None:
    assert {"cross-entropy", "binary-cross-entropy", "focal"} <= set(losses.names())


@every_loss
def test_example_is_a_sum_and_a_weight(name: str) -> None:
    loss, logits_BC, targets = losses.get(name).example()
    value = loss(logits_BC, targets)
    assert isinstance(loss, losses.get(name))
    assert value.sum.shape == value.weight.shape == torch.Size([]) and value.sum.dtype == torch.float32
    assert float(value.weight) == targets.numel()
    assert float(value.sum) == pytest.approx(float(loss.per_target(logits_BC, targets).sum()), rel=1e-6)
    assert loss.per_target(logits_BC, targets).shape == targets.shape
    assert float(value.sum) > 0


@every_problem
@pytest.mark.parametrize("class_weight_C", [None, WEIGHT_C], ids=["plain", "weighted"])
@pytest.mark.parametrize("cuts", [[12, 12], [1] * 24, [23, 1], [8, 3, 13]], ids=str)
def test_any_split_gives_the_same_gradient(name: str, problem: str, cuts: list[int], class_weight_C: Tensor | None) -> None:
    loss = losses.get(name)()
    logits_BC, targets = random_batch(problem)
    total, weight, whole = gradient(loss, logits_BC, targets, [NUM_ROWS], class_weight_C)
    split_total, split_weight, parts = gradient(loss, logits_BC, targets, cuts, class_weight_C)
    assert split_total == pytest.approx(total, rel=1e-6) and split_weight == pytest.approx(weight, rel=1e-6)
    assert float((parts - whole).abs().max()) <= 1e-6 * float(whole.abs().max())


@every_problem
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_finite_in_bfloat16_and_at_extremes(name: str, problem: str, scale: float) -> None:
    logits_BC, targets = random_batch(problem, scale=scale)
    leaf = logits_BC.bfloat16().requires_grad_()
    value = losses.get(name)()(leaf, targets)
    value.sum.backward()
    assert value.sum.dtype == torch.float32 and torch.isfinite(value.sum)
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    in_float32 = losses.get(name)()(leaf.detach().float(), targets)
    assert torch.equal(value.sum.detach(), in_float32.sum), "only the logits are rounded, the loss is computed in float32"


@every_problem
def test_class_weights_weigh_rows_of_their_class(name: str, problem: str) -> None:
    loss = losses.get(name)()
    logits_BC, targets = random_batch(problem)
    value = loss(logits_BC, targets, WEIGHT_C)
    each = loss.per_target(logits_BC, targets)
    weights = WEIGHT_C[targets] if problem == "single-label" else torch.where(targets == 1, WEIGHT_C.expand(NUM_ROWS, -1), 1.0)
    assert float(value.sum) == pytest.approx(float((each * weights).sum()), rel=1e-6)
    assert float(value.weight) == pytest.approx(float(weights.sum()), rel=1e-6)
    doubled = loss(logits_BC, targets, torch.full((NUM_CLASSES,), 2.0))
    if problem == "single-label":
        plain = loss(logits_BC, targets)
        assert float(doubled.sum / doubled.weight) == pytest.approx(float(plain.sum / plain.weight), rel=1e-6)


@every_problem
def test_the_truth_costs_less_than_its_opposite(name: str, problem: str) -> None:
    logits_BC, targets = random_batch(problem)
    right_BC = functional.one_hot(targets, NUM_CLASSES).float() if problem == "single-label" else targets.float()
    loss = losses.get(name)()
    right, wrong = loss(8 * right_BC - 4, targets), loss(4 - 8 * right_BC, targets)
    assert 0 <= float(right.sum) < 0.1 * float(wrong.sum)


def test_cross_entropy_is_torchs_own() -> None:
    logits_BC, targets = random_batch("single-label")
    for smoothing in (0.0, 0.1, 0.5):
        loss = losses.get("cross-entropy")(label_smoothing=smoothing)
        value = loss(logits_BC, targets)
        own = functional.cross_entropy(logits_BC, targets, label_smoothing=smoothing)
        assert float(value.sum / value.weight) == pytest.approx(float(own), rel=1e-6)
    weighted = losses.get("cross-entropy")()(logits_BC, targets, WEIGHT_C)
    assert float(weighted.sum / weighted.weight) == pytest.approx(
        float(functional.cross_entropy(logits_BC, targets, weight=WEIGHT_C)), rel=1e-6
    )


def test_label_smoothing_is_cross_entropy_with_smoothed_targets() -> None:
    logits_BC, targets = random_batch("single-label")
    smooth_BC = functional.one_hot(targets, NUM_CLASSES) * 0.8 + 0.2 / NUM_CLASSES
    expected = -(smooth_BC * logits_BC.log_softmax(-1)).sum(-1)
    assert torch.allclose(losses.get("cross-entropy")(label_smoothing=0.2).per_target(logits_BC, targets), expected, rtol=1e-6)


def test_binary_cross_entropy_is_torchs_own() -> None:
    logits_BC, targets = random_batch("multi-label")
    value = losses.get("binary-cross-entropy")()(logits_BC, targets)
    own = functional.binary_cross_entropy_with_logits(logits_BC, targets.float())
    assert float(value.sum / value.weight) == pytest.approx(float(own), rel=1e-6)
    weighted = losses.get("binary-cross-entropy")()(logits_BC, targets, WEIGHT_C)
    own = functional.binary_cross_entropy_with_logits(logits_BC, targets.float(), pos_weight=WEIGHT_C, reduction="sum")
    assert float(weighted.sum) == pytest.approx(float(own), rel=1e-6)


def test_focal_with_gamma_0_is_cross_entropy() -> None:
    for problem, plain in (("single-label", "cross-entropy"), ("multi-label", "binary-cross-entropy")):
        logits_BC, targets = random_batch(problem)
        focal = losses.get("focal")(gamma=0).per_target(logits_BC, targets)
        assert torch.allclose(focal, losses.get(plain)().per_target(logits_BC, targets), rtol=1e-6)


def test_arcface_worked_by_hand() -> None:
    """Scale 4: cosines 1/2 and 0. A margin of 30 degrees makes the right angle of 60 one of 90."""
    logits_BC, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    arcface = losses.get("arcface")(margin=math.pi / 6, scale=4.0)
    assert float(arcface(logits_BC, targets).sum) == pytest.approx(math.log(2), rel=1e-5)
    assert arcface.cosine_scale == 4.0 and losses.get("cross-entropy")().cosine_scale is None
    plain = losses.get("cross-entropy")()(logits_BC, targets)
    assert float(losses.get("arcface")(margin=0, scale=4.0)(logits_BC, targets).sum) == pytest.approx(float(plain.sum), rel=1e-5)


def test_arcface_never_rewards_a_larger_angle() -> None:
    cosines_B = torch.linspace(-1, 1, 401)
    logits_BC = torch.stack([4 * cosines_B, torch.zeros(401)], dim=1)
    costs_B = losses.get("arcface")(margin=0.5, scale=4.0).per_target(logits_BC, torch.zeros(401, dtype=torch.int64))
    assert (costs_B.diff() <= 1e-6).all() and costs_B[0] > costs_B[-1] + 2
    assert (costs_B > functional.cross_entropy(logits_BC, torch.zeros(401, dtype=torch.int64), reduction="none")).all()


def test_values_worked_by_hand() -> None:
    logits_BC, targets = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([1])  # probabilities 1/4 and 3/4
    cross_entropy = float(losses.get("cross-entropy")()(logits_BC, targets).sum)
    assert cross_entropy == pytest.approx(math.log(4 / 3), rel=1e-6)
    assert float(losses.get("focal")(gamma=2)(logits_BC, targets).sum) == pytest.approx(math.log(4 / 3) / 16, rel=1e-6)
    both = float(losses.get("binary-cross-entropy")()(logits_BC, torch.tensor([[0, 1]])).sum)
    assert both == pytest.approx(math.log(2) + math.log(4 / 3), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
def test_focal_gradient_is_finite_where_the_truth_is_certain(gamma: float) -> None:
    logits_BC = torch.tensor([[100.0, 0.0], [0.0, 100.0]], requires_grad=True)
    losses.get("focal")(gamma=gamma)(logits_BC, torch.tensor([0, 0])).sum.backward()
    assert logits_BC.grad is not None and torch.isfinite(logits_BC.grad).all()
