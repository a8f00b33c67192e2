"""Old rows that come with new ones, the information of weights, the pull of EWC and the mask: right by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from luthier.core.work import Batch
from luthier.training.retention.ewc import Consolidation
from luthier.training.retention.fisher import chosen_by_fisher, diagonal_fisher, relative
from luthier.training.retention.mask import Mask
from luthier.training.retention.replay import OldRows, carrying, parted


def old_rows(share: float, seed: int = 0) -> OldRows:
    return OldRows(
        50, lambda rows: Batch(rows.tolist(), {"input_ids": torch.as_tensor(rows)}, {"labels": torch.as_tensor(rows)}), share, seed
    )


def test_what_comes_with_a_row_does_not_depend_on_its_batch() -> None:
    rows = old_rows(0.4)
    whole, pieces = rows.beside(range(40), 2), [rows.beside([id_], 2) for id_ in range(40)]
    assert np.array_equal(whole, np.concatenate(pieces)) and whole.max() < 50
    assert not np.array_equal(whole, rows.beside(range(40), 3)) and not np.array_equal(whole, old_rows(0.4, 1).beside(range(40), 2))
    assert len(rows.beside([], 0)) == 0


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
def test_old_rows_have_their_share(share: float) -> None:
    drawn = len(old_rows(share).beside(range(4000), 0))
    assert drawn / (drawn + 4000) == pytest.approx(share, abs=0.02)


def test_a_batch_carries_another_and_gives_it_back() -> None:
    new = Batch([7, 8], {"input_ids": torch.tensor([1, 2])}, {"labels": torch.tensor([0, 1])}, num_tokens=5)
    loaded = old_rows(0.6).loading(lambda rows, epoch: new)(np.array([0, 1]), 0)
    back, old = parted(loaded)
    assert old is not None and old.ids == list(range(len(old.targets["labels"]))) and set(old.inputs) == {"input_ids"}
    assert back.ids == new.ids and set(back.inputs) == {"input_ids"} and torch.equal(back.targets["labels"], new.targets["labels"])
    assert parted(new)[1] is None and carrying(new, Batch([0], {}, {}, num_tokens=3)).num_tokens == 8


def test_information_is_the_mean_square_of_each_rows_gradient() -> None:
    layer, dice = nn.Linear(3, 2), torch.Generator().manual_seed(0)
    inputs, answers = torch.randn(5, 3, generator=dice), torch.tensor([0, 1, 1, 0, 1])
    losses = [lambda row=row: functional.cross_entropy(layer(inputs[row : row + 1]), answers[row : row + 1]) for row in range(5)]
    found = diagonal_fisher(dict(layer.named_parameters()), losses)
    wrong = torch.softmax(layer(inputs), 1) - functional.one_hot(answers, 2)
    assert torch.allclose(found["bias"], wrong.square().mean(0), atol=1e-6)
    assert torch.allclose(found["weight"], torch.einsum("nc,nh->ch", wrong.square(), inputs.square()) / 5, atol=1e-6)
    assert not found["weight"].requires_grad and layer.weight.grad is None
    even = relative(found)
    assert float(torch.cat([values.flatten() for values in even.values()]).mean()) == pytest.approx(1)


def test_ewc_by_hand() -> None:
    held, free = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.SGD([held, free], lr=0.1)
    optimiser.register_step_post_hook(Consolidation([(held, torch.tensor([0.0, 3.0]))], 5.0))
    held.grad, free.grad = torch.tensor([-10.0, -10.0]), torch.tensor([-10.0])
    optimiser.step()
    way = 0.1 * 5 * 3
    assert free.item() == pytest.approx(2) and held.tolist() == pytest.approx([2.0, 2 - way / (1 + way)])


def test_the_most_and_the_least_informed_weights() -> None:
    fisher = {"a": torch.tensor([[0.0, 4.0], [1.0, 3.0]]), "b": torch.tensor([2.0, 0.0])}
    most, least = (chosen_by_fisher(fisher, 0.5, largest=largest) for largest in (True, False))
    assert most["a"].tolist() == [[False, True], [False, True]] and most["b"].tolist() == [False, False]
    assert least["a"].tolist() == [[True, False], [True, False]] and least["b"].tolist() == [True, True], (
        "what nothing needs is trained too"
    )


def test_a_mask_holds_against_momentum_and_decay() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimiser = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5)
    Mask([(parameter, torch.tensor([True, False]))]).attach(optimiser)
    for _ in range(3):
        parameter.grad = torch.tensor([1.0, 1.0])
        optimiser.step()
    assert parameter[1].item() == 1 and parameter[0].item() < 0.8
