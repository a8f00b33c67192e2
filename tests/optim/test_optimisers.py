"""Optimisers against torch's own and against the formulas of the papers, computed here step by step in float64."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from luthier import flow
from luthier.core.errors import ConfigError, SetupError
from luthier.optim import defaults
from luthier.optim.groups import inner_apart
from luthier.optim.optimisers import optimisers
from luthier.recipe import resolve
from luthier.stages.layout.begin import lay_out, optimiser_of
from luthier.stages.layout.decide import decided_rates
from luthier.stages.layout.outer import outer_parameters

RATE, DECAY, STEPS = 0.02, 0.1, 4
Make = Callable[..., dict[str, Any]]


def start(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(*shape: int) -> list[Tensor]:
    return [start(*shape, seed=step + 1) for step in range(STEPS)]


def moved(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[np.ndarray]:
    """The parameters after a few steps with fixed gradients."""
    for step in range(STEPS):
        for parameter in parameters:
            parameter.grad = gradients(*parameter.shape)[step].clone()
        optimiser.step()
    return [parameter.detach().numpy().copy() for parameter in parameters]


def ours(name: str, *shapes: tuple[int, ...], **settings: Any) -> list[np.ndarray]:
    """Parameters of these shapes after a few steps, matrices decayed and vectors not."""
    parameters = [nn.Parameter(start(*shape)) for shape in shapes]
    groups = [{"params": [p], "lr": RATE, "weight_decay": DECAY if p.ndim > 1 else 0.0} for p in parameters]
    return moved(optimisers.get(name)(**settings).build(groups), parameters)


def test_adam_is_torchs() -> None:
    for decay in (0.0, DECAY):
        parameters = [nn.Parameter(start(5, 3))]
        expected = moved(torch.optim.Adam(parameters, lr=RATE, betas=(0.8, 0.9), weight_decay=decay, foreach=False), parameters)
        own = [nn.Parameter(start(5, 3))]
        built = optimisers.get("adam")(betas=(0.8, 0.9)).build([{"params": own, "lr": RATE, "weight_decay": decay}])
        np.testing.assert_allclose(moved(built, own)[0], expected[0], rtol=1e-5)


def test_lion_is_that_of_the_paper() -> None:
    """Algorithm 2 of Chen et al. as it is printed."""
    beta1, beta2 = 0.8, 0.95
    found = ours("lion", (5, 3), (4,), betas=(beta1, beta2))
    for shape, decay, end in (((5, 3), DECAY, found[0]), ((4,), 0.0, found[1])):
        theta, m = start(*shape).double().numpy(), np.zeros(shape)
        for gradient in gradients(*shape):
            g = gradient.double().numpy()
            c = beta1 * m + (1 - beta1) * g
            theta = theta - RATE * (np.sign(c) + decay * theta)
            m = beta2 * m + (1 - beta2) * g
        np.testing.assert_allclose(end, theta, atol=1e-6)


def test_lamb_is_that_of_the_paper() -> None:
    """Algorithm 2 of You et al. as it is printed, with the norm itself for phi; vectors take Adam's step."""
    beta1, beta2, eps = 0.8, 0.95, 1e-6
    found = ours("lamb", (5, 3), (4,), betas=(beta1, beta2), eps=eps)
    for shape, decay, end in (((5, 3), DECAY, found[0]), ((4,), 0.0, found[1])):
        x, m, v = start(*shape).double().numpy(), np.zeros(shape), np.zeros(shape)
        for t, gradient in enumerate(gradients(*shape), 1):
            g = gradient.double().numpy()
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps) + decay * x
            share = np.linalg.norm(x) / np.linalg.norm(r) if len(shape) > 1 else 1.0
            x = x - RATE * share * r
        np.testing.assert_allclose(end, x, atol=1e-6)


def test_schedule_free_is_that_of_the_paper() -> None:
    """Algorithm 1 of Defazio et al. as it is printed, with a rate that warms up."""
    beta1, beta2, eps, rates = 0.9, 0.95, 1e-8, [RATE * share for share in (0.25, 0.5, 0.75, 1.0)]
    for shape, decay in (((5, 3), DECAY), ((4,), 0.0)):
        parameter = nn.Parameter(start(*shape))
        optimiser: Any = optimisers.get("schedule-free")(betas=(beta1, beta2), eps=eps).build(
            [{"params": [parameter], "lr": 0.0, "weight_decay": decay}]
        )
        z = x = start(*shape).double().numpy()
        v, squares = np.zeros(shape), 0.0
        for t, (gradient, rate) in enumerate(zip(gradients(*shape), rates, strict=True), 1):
            optimiser.param_groups[0]["lr"] = rate
            parameter.grad = gradient.clone()
            optimiser.step()
            y = (1 - beta1) * z + beta1 * x
            g = gradient.double().numpy()
            v = beta2 * v + (1 - beta2) * g**2
            z = z - rate * g / (np.sqrt(v / (1 - beta2**t)) + eps) - rate * decay * y
            squares += rate**2
            c = rate**2 / squares
            x = (1 - c) * x + c * z
        np.testing.assert_allclose(parameter.detach().numpy(), (1 - beta1) * z + beta1 * x, atol=1e-6)
        optimiser.exchange()
        np.testing.assert_allclose(parameter.detach().numpy(), x, atol=1e-6)


def test_soap_is_that_of_the_paper() -> None:
    """Algorithm 3 of Vyas et al. with G G^T and G^T G, the first gradient for the basis alone; a basis is only known up to signs."""
    beta1, beta2, eps, every = 0.8, 0.9, 1e-8, 2
    found = ours("soap", (4, 4), betas=(beta1, beta2), eps=eps, every=every)[0]
    w, first = start(4, 4).double().numpy(), gradients(4, 4)[0].double().numpy()
    squares = [(1 - beta2) * first @ first.T, (1 - beta2) * first.T @ first]
    left, right = (np.linalg.eigh(square)[1][:, ::-1] for square in squares)
    m, v = np.zeros((4, 4)), np.zeros((4, 4))
    for t, gradient in enumerate(gradients(4, 4)[1:], 1):
        g = gradient.double().numpy()
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * (left.T @ g @ right) ** 2
        turned = (left.T @ m @ right) / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        w = (w - RATE * left @ turned @ right.T) * (1 - RATE * DECAY)
        squares = [beta2 * square + (1 - beta2) * now for square, now in zip(squares, (g @ g.T, g.T @ g), strict=True)]
        if t % every == 0:
            rows, columns = (np.argsort(-np.diag(q.T @ square @ q)) for q, square in zip((left, right), squares, strict=True))
            v = v[rows][:, columns]
            left, right = np.linalg.qr(squares[0] @ left[:, rows])[0], np.linalg.qr(squares[1] @ right[:, columns])[0]
    np.testing.assert_allclose(found, w, atol=1e-5)


def test_soap_does_not_turn_long_sides() -> None:
    """With both sides too long it is AdamW, one gradient later."""
    parameter = nn.Parameter(start(5, 3))
    optimiser = optimisers.get("soap")(longest=2).build([{"params": [parameter], "lr": RATE, "weight_decay": 0.0}])
    found = moved(optimiser, [parameter])[0]
    other = nn.Parameter(start(5, 3))
    adam = torch.optim.Adam([other], lr=RATE, betas=(0.95, 0.95))
    for gradient in gradients(5, 3)[1:]:
        other.grad = gradient.clone()
        adam.step()
    np.testing.assert_allclose(found, other.detach().numpy(), atol=1e-6)
    assert set(optimiser.state[parameter]) == {"step", "exp_avg", "exp_avg_sq"}


def test_the_average_of_schedule_free_must_have_a_share() -> None:
    with pytest.raises(ConfigError, match=r"optim.betas: got \[0.0, 0.999\], wanted the first above 0"):
        resolve({"optim": {"type": "schedule-free", "betas": [0, 0.999]}, "schedule": "constant"})


def test_a_matrix_of_zeros_takes_adams_step_with_lamb() -> None:
    matrix = nn.Parameter(torch.zeros(3, 2))
    optimiser = optimisers.get("lamb")().build([{"params": [matrix], "lr": RATE, "weight_decay": 0.0}])
    matrix.grad = torch.full((3, 2), 0.5)
    optimiser.step()
    assert torch.allclose(matrix, torch.full((3, 2), -RATE), rtol=1e-4)


@pytest.mark.parametrize("scale", ["match_rms_adamw", "original"])
def test_muon_is_torchs_muon_and_torchs_adamw(scale: str) -> None:
    found = ours("muon", (6, 4), (4,), (3, 6), scale=scale)
    matrices, vector = [nn.Parameter(start(6, 4)), nn.Parameter(start(3, 6))], [nn.Parameter(start(4))]
    expected = moved(torch.optim.Muon(matrices, lr=RATE, weight_decay=DECAY, momentum=0.95, adjust_lr_fn=scale), matrices)
    expected[1:1] = moved(torch.optim.AdamW(vector, lr=RATE, weight_decay=0.0, fused=True), vector)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_muon_takes_only_matrices_inside_the_model(recipe: Make) -> None:
    changes = {"optim": {"type": "muon", "learning_rate": 1e-2, "head_learning_rate": 2e-2}}
    resolved = resolve(recipe("run", changes))
    bench = lay_out(resolved, flow.prepare(resolved))
    optimiser = optimiser_of(bench.recipe, bench.parts, bench.new)
    names = {id(parameter): name for name, parameter in bench.parts["model"].module.named_parameters()}
    groups = {group["name"]: sorted(names[id(p)] for p in group["params"]) for group in optimiser.param_groups}
    assert set(groups) == {"body", "body, outer", "body, no decay", "head", "head, no decay"}
    assert all("embeddings" in name for name in groups["body, outer"]) and len(groups["body, outer"]) == 3
    assert len(groups["body"]) == 2 * 6 + 1 and all("layer." in name or "pooler" in name for name in groups["body"])
    assert groups["head"] == ["classifier.weight"]
    assert {group["name"]: group["inner"] for group in optimiser.param_groups if group["inner"]} == {"body": True}
    assert sum(map(len, groups.values())) == sum(p.requires_grad for p in bench.parts["model"].module.parameters())


def test_a_head_that_came_with_the_model_is_outside_too(tiny_run: Any) -> None:
    from transformers import BertForSequenceClassification

    from luthier.core.work import Part

    model = BertForSequenceClassification.from_pretrained(tiny_run / "model")
    outer = outer_parameters({"model": Part(model)}, frozenset())
    assert {name.partition(".")[0] for name, p in model.named_parameters() if id(p) in outer and "embeddings" not in name} == {"classifier"}


def test_groups_are_split_only_where_both_kinds_are_in_one() -> None:
    inner, table, vector = nn.Parameter(start(3, 3)), nn.Parameter(start(7, 3)), nn.Parameter(start(3))
    groups = [{"name": "a", "params": [inner, table], "lr": 1.0}, {"name": "b", "params": [vector], "lr": 2.0}]
    found = inner_apart(groups, {id(table)})
    assert [(g["name"], g["inner"], g["lr"]) for g in found] == [("a", True, 1.0), ("a, outer", False, 1.0), ("b", False, 2.0)]
    assert [id(g["params"][0]) for g in found] == [id(inner), id(table), id(vector)]


def test_an_old_torch_has_no_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(SetupError, match=r"needs torch 2\.9 or newer, and torch 2"):
        optimisers.get("muon").example().build([])


@pytest.mark.parametrize(("name", "rate"), [("adamw", 2.1e-5), ("adam", 2.1e-5), ("muon", 2.1e-5), ("lion", 4.2e-6), ("lamb", 4.2e-4)])
def test_auto_goes_by_the_optimiser(name: str, rate: float) -> None:
    found = decided_rates(resolve({"optim": name}), lambda: SimpleNamespace(hidden_size=1024))
    assert found == (pytest.approx(rate), pytest.approx(defaults.HEAD_FACTOR * rate, rel=0.05))


@pytest.mark.parametrize("name", ["muon", "lamb", "soap"])
def test_what_needs_whole_matrices_is_not_split(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs whole matrices.*parallel=ddp"):
        resolve({"optim": name, "training": {"parallel": "fsdp2"}})
