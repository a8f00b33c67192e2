"""Chunked cross-entropy over a vocabulary is plain cross-entropy: value, gradients, under every setting; and it makes no large tensor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.losses.vocabulary.chunked import linear_cross_entropy, supervised


def made(num: int, width: int, words: int, seed: int = 0, scale: float = 0.3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states, weight = torch.randn(num, width, generator=generator), torch.randn(words, width, generator=generator) * scale
    bias = torch.randn(words, generator=generator) * scale
    return states.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), torch.randint(words, (num,), generator=generator)


def plain(states: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, smoothing: float = 0.0, z: float = 0.0) -> Tensor:
    logits = functional.linear(states, weight, bias).float() if states.dtype != torch.float64 else functional.linear(states, weight, bias)
    total = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    return total + z * logits.logsumexp(1).square().sum() if z else total


def exact(given: tuple[Tensor, ...], targets: Tensor, **settings: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Value and gradients in float64."""
    states, weight, *bias = (each.detach().double().requires_grad_() for each in given)
    value = plain(states, weight, targets, *bias, **settings)
    return value.detach(), torch.autograd.grad(value, (states, weight, *bias))


def apart(found: Tensor, wanted: Tensor, least: float = 1e-12) -> float:
    """Distance relative to what is wanted, or to `least` where that is larger."""
    return float((found.double() - wanted).norm() / wanted.norm().clamp(min=least))


@given(
    num=st.integers(1, 90),
    width=st.integers(1, 24),
    words=st.sampled_from([2, 63, 1024, 1025, 2500]),
    chunk=st.sampled_from([None, 1, 7, 64]),
    smoothing=st.sampled_from([0.0, 0.1]),
    z=st.sampled_from([0.0, 1e-3]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_value_and_gradients_are_those_of_plain_cross_entropy(
    num: int, width: int, words: int, chunk: int | None, smoothing: float, z: float, seed: int
) -> None:
    states, weight, bias, targets = made(num, width, words, seed)
    found = linear_cross_entropy(states, weight, targets, bias_V=bias, label_smoothing=smoothing, z=z, chunk=chunk)
    wanted, gradients = exact((states, weight, bias), targets, smoothing=smoothing, z=z)
    assert found.dtype == torch.float32 and apart(found.detach(), wanted, least=num / 2) < 1e-6
    made_of = (float(weight.detach().abs().mean()), float(states.detach().abs().mean()), 1.0)  # size of what is summed, and may cancel
    for ours, right, size in zip(torch.autograd.grad(found, (states, weight, bias)), gradients, made_of, strict=True):
        assert apart(ours, right, least=size * num**0.5) < 2e-6


def test_float32_is_as_near_to_the_exact_gradient_as_plain_float32() -> None:
    states, weight, bias, targets = made(300, 64, 5000)
    value, gradients = exact((states, weight, bias), targets)
    ours = torch.autograd.grad(linear_cross_entropy(states, weight, targets, bias_V=bias), (states, weight, bias))
    theirs = torch.autograd.grad(plain(states, weight, targets, bias), (states, weight, bias))
    assert apart(linear_cross_entropy(states, weight, targets, bias_V=bias).detach(), value) < 1e-6
    for found, other, right in zip(ours, theirs, gradients, strict=True):
        assert apart(found, right) < max(1e-6, 2 * apart(other, right))


@pytest.mark.parametrize("frozen", [False, True])
def test_bf16_is_as_near_to_the_exact_gradient_as_autocast(frozen: bool) -> None:
    states, weight, bias, targets = made(300, 64, 5000)
    weight.requires_grad_(not frozen), bias.requires_grad_(not frozen)
    asked = (states,) if frozen else (states, weight, bias)
    value, gradients = exact((states, weight, bias), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cross_entropy(states, weight, targets, bias_V=bias, precision="bf16")
        other = plain(states, weight, targets, bias)
    assert apart(found.detach(), value) < max(1e-3, 2 * apart(other.detach(), value))
    for ours, theirs, right in zip(torch.autograd.grad(found, asked), torch.autograd.grad(other, asked), gradients, strict=False):
        assert ours.dtype == torch.float32
        assert apart(ours, right) < 1.5 * apart(theirs, right)


def test_a_probability_near_one_keeps_its_distance_from_one_in_bf16() -> None:
    weight = torch.eye(8).repeat(200, 1) * torch.linspace(0, 1, 1600)[:, None]
    states = (weight[1599:] * 16).repeat(4, 1).requires_grad_()
    targets = torch.full((4,), 1599)
    (ours,) = torch.autograd.grad(linear_cross_entropy(states, weight, targets, precision="bf16"), states)
    wanted = torch.autograd.grad(plain(states.double(), weight.double(), targets), states)[0]
    assert 0 < float(wanted.norm()) < 1 and apart(ours, wanted.double()) < 0.05


def test_float32_products_are_not_lowered_by_autocast() -> None:
    states, weight, _, targets = made(30, 16, 3000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_cross_entropy(states, weight, targets)
    assert torch.equal(inside, linear_cross_entropy(states, weight, targets))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("height", [50.0, 3000.0])
def test_a_late_word_far_above_the_first_block(frozen: bool, height: float) -> None:
    states, weight, bias, targets = made(20, 8, 4000)
    bias = bias.detach().clone()
    bias[2000:] += height
    weight.requires_grad_(not frozen)
    asked = (states,) if frozen else (states, weight)
    found = linear_cross_entropy(states, weight, targets, bias_V=bias)
    other = plain(states.double(), weight.double(), targets, bias.double())
    assert math.isfinite(float(found.detach())) and apart(found.detach(), other.detach()) < 1e-5
    for ours, right in zip(torch.autograd.grad(found, asked), torch.autograd.grad(other, asked), strict=True):
        assert apart(ours, right.double()) < 1e-4


def test_a_state_that_is_not_finite_gives_a_loss_that_is_not() -> None:
    states, weight, _, targets = made(5, 8, 4000)
    assert not math.isfinite(float(linear_cross_entropy(states.detach() * float("nan"), weight.detach(), targets)))


def test_a_frozen_weight_gets_no_gradient_and_the_states_get_the_same() -> None:
    states, weight, bias, targets = made(600, 16, 3000)
    whole = torch.autograd.grad(linear_cross_entropy(states, weight, targets, bias_V=bias), states)[0]
    frozen = linear_cross_entropy(states, weight.detach(), targets, bias_V=bias.detach())
    frozen.backward()
    assert weight.grad is None and bias.grad is None
    assert apart(states.grad, whole.double()) < 1e-6


def test_scaling_and_accumulation() -> None:
    states, weight, bias, targets = made(64, 16, 2000)
    value, gradients = exact((states, weight, bias), targets)
    for rows in torch.arange(64).split(16):
        (linear_cross_entropy(states[rows], weight, targets[rows], bias_V=bias) * 0.37).backward()
    for leaf, right in zip((states, weight, bias), gradients, strict=True):
        assert apart(leaf.grad, right * 0.37) < 2e-6


def test_types_of_the_gradients_are_those_of_the_inputs() -> None:
    states, weight, _, targets = made(30, 16, 3000)
    states, weight = (each.detach().bfloat16().requires_grad_() for each in (states, weight))
    linear_cross_entropy(states, weight, targets, precision="bf16").backward()
    assert states.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_no_positions_are_a_loss_of_zero_with_gradients_of_zero() -> None:
    states, weight, bias, _ = made(3, 4, 10)
    found = linear_cross_entropy(states[:0], weight, torch.zeros(0, dtype=torch.long), bias_V=bias, label_smoothing=0.1)
    found.backward()
    assert float(found.detach()) == 0 and not weight.grad.any() and not bias.grad.any() and not states.grad.any()


def test_without_gradients_and_a_second_backward() -> None:
    states, weight, _, targets = made(9, 4, 100)
    found = linear_cross_entropy(states, weight, targets)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(states, weight, targets), found)
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        found.backward()


@pytest.mark.parametrize("target", [-100, 100])
def test_a_position_that_is_not_supervised_is_refused(target: int) -> None:
    states, weight, _, targets = made(9, 4, 100)
    targets[3] = target
    with pytest.raises(ValueError, match=f"{target}.*supervised positions only"):
        linear_cross_entropy(states, weight, targets)


def test_supervised_positions_are_those_before_their_labels() -> None:
    states_BTH = torch.arange(8.0).view(2, 4, 1)
    labels_BT = torch.tensor([[5, -100, 7, -100], [-100, -100, -100, 9]])
    states, labels = supervised(states_BTH, labels_BT)
    assert states.flatten().tolist() == [1.0, 6.0] and labels.tolist() == [7, 9]


def test_the_loss_is_that_of_a_hugging_face_model() -> None:
    states_BTH, weight = torch.randn(3, 7, 8), torch.randn(50, 8)
    labels_BT = torch.randint(50, (3, 7)).masked_fill(torch.rand(3, 7) < 0.3, -100)
    logits = states_BTH @ weight.t()
    wanted = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    assert apart(linear_cross_entropy(*supervised(states_BTH, labels_BT)[:1], weight, supervised(states_BTH, labels_BT)[1]), wanted) < 1e-6


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("frozen", [False, True])
def test_no_tensor_of_all_logits_ever_exists(frozen: bool) -> None:
    states, weight, _, targets = made(1024, 4, 32000)
    weight.requires_grad_(not frozen)
    with Largest() as largest:
        linear_cross_entropy(states, weight, targets).backward()
    bound = 64 * 2**20 // 4 if not frozen else 256 * 1024
    assert 0 < largest.elements <= bound < 1024 * 32000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_gpu_gives_the_same(frozen: bool) -> None:
    states, weight, bias, targets = (each.detach().cuda() for each in made(300, 64, 5000))
    states.requires_grad_(), weight.requires_grad_(not frozen)
    asked = (states,) if frozen else (states, weight)
    value, gradients = exact((states, weight, bias), targets)
    found = linear_cross_entropy(states, weight, targets, bias_V=bias, precision="bf16")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        other = plain(states, weight, targets, bias)
    assert apart(found.detach(), value) < 1e-3
    for ours, theirs, right in zip(torch.autograd.grad(found, asked), torch.autograd.grad(other, asked), gradients, strict=False):
        assert apart(ours, right) < 1.5 * apart(theirs, right)


def test_of_shapes_alone_the_loss_is_a_shape() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        states, weight = torch.empty(6, 4, requires_grad=True), torch.empty(11, 4, requires_grad=True)
        loss = linear_cross_entropy(states, weight, torch.empty(6, dtype=torch.int64))
        loss.backward()
    assert loss.shape == () and loss.dtype == torch.float32
    assert states.grad is not None and states.grad.shape == (6, 4) and weight.grad is not None and weight.grad.shape == (11, 4)
