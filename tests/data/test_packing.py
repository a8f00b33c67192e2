"""Packs of documents: every document once, none too full, little waste, a pure function of seed and epoch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.packing import packed_order, waste

DATA = Path(os.environ.get("LUTHIER_DATA", "")) if os.environ.get("LUTHIER_DATA") else None


def flat(batches: list[list[np.ndarray]]) -> list[list[int]]:
    return [pack.tolist() for batch in batches for pack in batch]


@given(
    lengths=st.lists(st.integers(1, 64), max_size=300),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_every_document_is_in_one_pack_that_holds_it(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    lengths_N = np.array(lengths, dtype=np.int64)
    batches = packed_order(lengths_N, capacity=64, batch_size=batch_size, seed=seed, epoch=epoch)
    packs = flat(batches)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(0 < lengths_N[pack].sum() <= 64 for pack in packs)
    assert all(len(batch) == batch_size for batch in batches[:-1]) and all(batches)
    assert flat(packed_order(lengths_N, capacity=64, batch_size=batch_size, seed=seed, epoch=epoch)) == packs


def test_another_seed_and_another_epoch_are_another_order() -> None:
    lengths_N = np.random.default_rng(0).integers(1, 64, 500)
    orders = [flat(packed_order(lengths_N, capacity=64, batch_size=4, seed=seed, epoch=epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    mates = [{frozenset(pack) for pack in order if len(pack) > 1} for order in orders]
    assert len(mates[0] & mates[1]) < len(mates[0]) / 2, "documents meet other documents in the next epoch"


def test_long_documents_do_not_come_first() -> None:
    lengths_N = np.random.default_rng(0).integers(1, 64, 4000)
    places = [lengths_N[pack].max() for pack in flat(packed_order(lengths_N, capacity=64, batch_size=4, seed=0, epoch=0))]
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.1
    within = [np.argmax(lengths_N[pack]) for pack in flat(packed_order(lengths_N, capacity=64, batch_size=4, seed=0, epoch=0))]
    assert 0.2 < np.mean(np.array(within) == 0) < 0.8


def test_a_document_that_is_too_long_is_named() -> None:
    with pytest.raises(DataError, match=r"1 documents are longer than 64 tokens; the first is document 2 with 65"):
        packed_order(np.array([3, 64, 65]), capacity=64, batch_size=2, seed=0, epoch=0)
    with pytest.raises(DataError, match=r"empty.*document 1 with 0"):
        packed_order(np.array([3, 0]), capacity=64, batch_size=2, seed=0, epoch=0)


def test_little_is_wasted_on_lengths_like_those_of_instructions() -> None:
    lengths_N = np.clip(np.random.default_rng(0).lognormal(5.1, 0.6, 1000).astype(np.int64), 8, 512)
    batches = packed_order(lengths_N, capacity=512, batch_size=8, seed=0, epoch=0)
    packs = flat(batches)
    assert waste(batches, lengths_N, capacity=512) == pytest.approx(1 - lengths_N.sum() / (512 * len(packs)))
    assert waste(batches, lengths_N, capacity=512) < 0.05


@pytest.mark.real
@pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA names no folder")
def test_little_is_wasted_on_real_instructions() -> None:
    from transformers import PreTrainedTokenizerFast

    assert DATA is not None
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(DATA / "checkpoints/stories260K/tokenizer.json"))
    rows = json.loads((DATA / "instruct_demo/alpaca_en_demo.json").read_text(encoding="utf-8"))
    texts = [f"{row['instruction']} {row['input']} {row['output']}" for row in rows]
    subwords = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
    for lengths_N in (np.minimum(subwords, 512), np.minimum(subwords // 2 + 1, 512)):  # a vocabulary of 512 words, and a larger one
        for epoch in range(3):
            assert waste(packed_order(lengths_N, capacity=512, batch_size=8, seed=0, epoch=epoch), lengths_N, capacity=512) < 0.05
