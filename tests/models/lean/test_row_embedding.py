"""Learning only the rows that occur gives what learning all of them gives."""

from __future__ import annotations

import torch
from torch import nn

from luthier.models.lean.row_embedding import RowEmbedding

USED = torch.tensor([0, 2, 3, 7, 9])
RATE, DECAY = 0.05, 0.2


def pair() -> tuple[nn.Embedding, RowEmbedding]:
    torch.manual_seed(0)
    plain = nn.Embedding(12, 4, padding_idx=0)
    return plain, RowEmbedding(nn.Embedding.from_pretrained(plain.weight.detach().clone(), freeze=False, padding_idx=0), USED)


def train(table: nn.Module, steps: range, optimiser: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    """Steps of AdamW, two micro-batches each, the gradient of random directions."""
    optimiser = optimiser or torch.optim.AdamW(table.parameters(), lr=RATE, weight_decay=DECAY)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for _ in range(2):
            ids = USED[torch.randint(0, len(USED), (3, 5), generator=generator)]
            (table(ids) * torch.randn(3, 5, 4, generator=generator)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        if isinstance(table, RowEmbedding):
            table.shrink(1 - RATE * DECAY)
    return optimiser


def test_every_row_ends_where_the_plain_table_has_it() -> None:
    plain, rows = pair()
    for table in (plain, rows):
        train(table, range(6))
    assert torch.allclose(rows.settled().weight, plain.weight, atol=1e-6)
    ids = torch.arange(12)
    with torch.no_grad():
        assert torch.allclose(rows(ids), plain(ids), atol=1e-6)


def test_a_checkpoint_is_a_whole_table_and_going_on_from_it_is_bit_exact() -> None:
    _, straight = pair()
    train(straight, range(6))
    _, stopped = pair()
    optimiser = train(stopped, range(3))
    saved = {name: tensor.clone() for name, tensor in stopped.state_dict().items()}
    assert set(saved) == {"weight", "decay"} and saved["weight"].shape == (12, 4)
    _, again = pair()
    again.load_state_dict(saved)
    resumed = torch.optim.AdamW(again.parameters(), lr=RATE, weight_decay=DECAY)
    resumed.load_state_dict(optimiser.state_dict())
    train(again, range(3, 6), resumed)
    assert torch.equal(again.settled().weight, straight.settled().weight)


def test_a_plain_table_can_be_taken_up() -> None:
    plain, rows = pair()
    train(plain, range(2))
    rows.load_state_dict(plain.state_dict())
    assert torch.equal(rows.settled().weight, plain.weight)


def test_gradients_do_not_leak_from_step_to_step() -> None:
    _, rows = pair()
    for ids in ([2, 3], [7, 7]):
        rows(torch.tensor([ids])).sum().backward()
        assert rows.weight.grad is not None
        touched = rows.weight.grad.abs().sum(1) > 0
        assert USED[touched].tolist() == sorted(set(ids))
        rows.zero_grad()


def test_a_token_that_does_not_occur_is_read_but_never_learnt() -> None:
    _, rows = pair()
    try:
        rows(torch.tensor([[1]]))
    except AssertionError as error:
        assert "does not occur in the training rows" in str(error)
    else:
        raise AssertionError("it was learnt")
    with torch.no_grad():
        assert torch.equal(rows(torch.tensor([1])), rows.rest[1:2])
