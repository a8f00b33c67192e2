"""Every registered step rule: its gradient is that of the mean loss over the whole window, however the window is cut."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from luthier.core.work import Batch, Part, Parts, Term, Terms
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import StepRule

every_rule = pytest.mark.parametrize("name", step_rules.names())
NUM_ROWS = 12


class Words(nn.Module):
    """The mean of three words of each row, and one number of it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(7, 3), nn.Linear(3, 1)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.last(self.words(ids).mean(1))).squeeze(1)


class WeightedSquares:
    """Two terms, squares and sizes, with weights per row and a coefficient of its own for each term."""

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"square": float(batch.targets["weight"].sum()), "size": float(len(batch.ids))}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        answer_B = parts["model"].module(batch.inputs["input_ids"])
        weight_B = batch.targets["weight"]
        square = Term(((answer_B - batch.targets["y"]) ** 2 * weight_B).sum(), weight_B.sum())
        return {"square": square, "size": Term(answer_B.abs().sum(), torch.tensor(float(len(batch.ids))), coefficient=0.1)}


def window(cuts: list[int]) -> list[Batch]:
    dice = torch.Generator().manual_seed(0)
    x, y, weight = (
        torch.randint(7, (NUM_ROWS, 3), generator=dice),
        torch.randn(NUM_ROWS, generator=dice),
        torch.rand(NUM_ROWS, generator=dice) + 0.5,
    )
    ids = torch.arange(NUM_ROWS)
    parts = zip(ids.split(cuts), x.split(cuts), y.split(cuts), weight.split(cuts), strict=True)
    return [Batch(i.tolist(), {"input_ids": a}, {"y": b, "weight": w}, num_tokens=len(i)) for i, a, b, w in parts]


def gradient(name: str, cuts: list[int]) -> tuple[dict[str, float], Tensor]:
    torch.manual_seed(1)
    model = Words()
    torch.manual_seed(2)
    rule = step_rules.get(name)()
    assert isinstance(rule, StepRule)
    means = rule.gradient(WeightedSquares(), {"model": Part(model)}, window(cuts), nullcontext())
    return means, torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_the_plain_rule_is_here() -> None:
    assert "accumulate" in step_rules.names()


def test_the_robust_rules_are_here() -> None:
    assert {"fgm", "pgd", "freelb", "sam"} <= set(step_rules.names())


@every_rule
def test_means_add_up_to_the_total(name: str) -> None:
    means, found = gradient(name, [NUM_ROWS])
    assert found.count_nonzero() == found.numel()
    assert set(means) == {"total", "square", "size"}
    assert means["total"] == pytest.approx(means["square"] + means["size"])


@every_rule
@pytest.mark.parametrize("cuts", [[4, 4, 4], [1] * NUM_ROWS, [11, 1], [5, 7]], ids=str)
def test_any_split_of_the_window_gives_the_same_gradient(name: str, cuts: list[int]) -> None:
    whole_means, whole = gradient(name, [NUM_ROWS])
    means, found = gradient(name, cuts)
    assert means == pytest.approx(whole_means, rel=1e-6)
    assert float((found - whole).abs().max()) <= 1e-6 * float(whole.abs().max())


def test_accumulate_is_the_gradient_of_the_mean() -> None:
    means, found = gradient("accumulate", [3, 9])
    torch.manual_seed(1)
    model = Words()
    batch = window([NUM_ROWS])[0]
    terms = WeightedSquares().losses({"model": Part(model)}, batch)
    total = terms["square"].sum / terms["square"].weight + 0.1 * terms["size"].sum / NUM_ROWS
    total.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert means["total"] == pytest.approx(float(total.detach()), rel=1e-6)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
