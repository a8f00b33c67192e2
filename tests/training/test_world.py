"""The parts of several processes that need only one: shares of rows, the meeting in a store that is not clean, what is split."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luthier.core.work import Batch
from luthier.data.batches import Order
from luthier.data.source import EpochSource, Share
from luthier.training import distributed
from luthier.training.world import ALONE


def loaded(rows: np.ndarray, epoch: int) -> Batch:
    return Batch([int(row) for row in rows], {})


@settings(deadline=None, max_examples=50)
@given(
    num_rows=st.integers(1, 40), batch_size=st.integers(1, 16), size=st.integers(1, 5), accumulate=st.integers(1, 3), most=st.integers(1, 8)
)
def test_shares_are_all_rows_once_in_as_many_pieces(num_rows: int, batch_size: int, size: int, accumulate: int, most: int) -> None:
    """Also where memory ran out before: FSDP2 gathers weights in every piece, so no process may have more of them than another."""
    lengths = np.arange(num_rows) % 7 + 1
    sources = [EpochSource(Order(lengths, batch_size, 3), loaded, accumulate=accumulate, share=Share(rank, size)) for rank in range(size)]
    for source in sources:
        source.load_state_dict({"epoch": 0, "window": 0, "most_rows": most})
    windows = [iter(source) for source in sources]
    for _ in range(2 * sources[0].steps_per_epoch):
        shares = [next(window) for window in windows]
        assert len({len(share) for share in shares}) == 1
        counted = [row for share in shares for batch in share if batch.counts for row in batch.ids]
        assert sorted(counted) == sorted(sources[0].taken.rows.tolist())
        assert all(1 <= len(batch.ids) <= max(1, min(most, batch_size)) for share in shares for batch in share)
    seen = [row for share in shares for batch in share for row in batch.ids]
    assert set(seen) <= set(range(num_rows))


def meet(store: dist.Store, size: int, seconds: float = 10.0) -> list[str]:
    """Let every rank meet in a store, each in a thread; returns what all wrote into their own part, or the error's words."""
    said = [""] * size

    def be(rank: int) -> None:
        mine = dist.PrefixStore("", store)
        try:
            fresh = distributed._store_of_these(mine, rank, size, time.monotonic() + seconds)
            fresh.set(f"address/{rank}", f"{rank}")
            said[rank] = b"".join(fresh.get(f"address/{other}") for other in range(size)).decode()
        except RuntimeError as error:
            said[rank] = str(error)

    threads = [threading.Thread(target=be, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    return said


def test_processes_meet_in_a_store_that_dead_ones_left_their_words_in() -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=10))
    assert meet(store, 3) == ["012"] * 3
    assert meet(store, 3) == ["012"] * 3, "the first round's words are still there"
    assert meet(store, 2) == ["01"] * 2


def test_a_process_that_does_not_come_is_named() -> None:
    store = dist.HashStore()
    with pytest.raises(dist.DistStoreError, match="process 1, 2 did not come"):
        distributed._store_of_these(store, 0, 3, time.monotonic() + 0.2)


class Layer(nn.Module):
    """A layer with inner layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for expert in self.experts:
            x = x + expert(x)
        return x


class Nested(nn.Module):
    """Layers in lists in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.more = nn.ModuleList([nn.ModuleList([nn.Linear(4, 4)])])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.more[0][0](x)


def test_layers_in_layers_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = distributed.join(timeout=5)
    try:
        torch.manual_seed(0)
        whole, split = Nested(), Nested()
        split.load_state_dict(whole.state_dict())
        distributed._split(split)
        x = torch.randn(3, 4)
        whole(x).sum().backward()
        split(x).sum().backward()
        for (name, parameter), mine in zip(whole.named_parameters(), split.parameters(), strict=True):
            assert torch.allclose(mine.grad.full_tensor(), parameter.grad), name
    finally:
        world.leave()
    assert not dist.is_initialized()


def test_a_group_that_somebody_else_made_stays() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        distributed.join(timeout=5).leave()
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_one_process_is_a_world() -> None:
    assert (ALONE.rank, ALONE.size, ALONE.shared("mine"), ALONE.gathered(1), ALONE.sum({"a": 2.0}), ALONE.agreed(3)) == (
        0, 1, "mine", [1], {"a": 2.0}, 3,
    )  # fmt: skip
    assert not ALONE.has_lost(RuntimeError("Connection closed by peer"))
