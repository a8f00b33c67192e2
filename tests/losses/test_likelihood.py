"""Likelihoods found a block of words at a time are those of all logits at once, and no tensor of all logits is made."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from luthier.losses.vocabulary import likelihood
from tests.losses.test_vocabulary_loss import Largest, made


@pytest.mark.parametrize("words", [3, 64, 150])
@pytest.mark.parametrize("with_bias", [True, False])
def test_they_are_those_of_all_logits(words: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "ROWS", 16)
    monkeypatch.setattr(likelihood, "WORDS", 64)
    states, weight, bias, targets = made(50, 8, words)
    logits = functional.linear(states, weight, bias if with_bias else None)
    targets[::2] = logits.argmax(1)[::2]
    nats, right = likelihood.likelihoods(states, weight, targets, bias if with_bias else None)
    wanted = functional.cross_entropy(logits, targets, reduction="none")
    assert nats.dtype == torch.float32 and torch.allclose(nats, wanted, atol=1e-5)
    assert torch.equal(right, logits.argmax(1) == targets) and 25 <= int(right.sum()) < 50


def test_of_equal_logits_the_first_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "WORDS", 2)
    _, right = likelihood.likelihoods(torch.ones(5, 1), torch.ones(5, 1), torch.arange(5))
    assert right.tolist() == [True, False, False, False, False]


def test_no_position_gives_nothing() -> None:
    nats, right = likelihood.likelihoods(torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(0, dtype=torch.int64))
    assert nats.shape == right.shape == (0,)


def test_all_logits_are_never_held() -> None:
    states, weight, _, targets = made(700, 4, 50_000)
    with Largest() as largest:
        likelihood.likelihoods(states, weight, targets)
    assert 0 < largest.elements <= likelihood.ROWS * likelihood.WORDS
