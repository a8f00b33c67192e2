"""The chain over tags against the sum over all rows of tags, taken one by one."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from luthier.models.linear_chain import (
    FORBIDDEN,
    Chain,
    LinearChain,
    best_paths,
    lawful_chain,
    log_partition,
    marginals,
    negative_log_likelihood,
    path_score,
)

LENGTHS = (4, 1, 3, 2)
NUM_TAGS = 3


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, Chain]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    present_BN = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    return draw(len(LENGTHS), max(LENGTHS), NUM_TAGS), present_BN, Chain(draw(NUM_TAGS), draw(NUM_TAGS, NUM_TAGS), draw(NUM_TAGS))


def by_hand(scores_NC: torch.Tensor, tags: tuple[int, ...], chain: Chain) -> float:
    moves = sum(float(chain.follows_CC[one, other]) for one, other in zip(tags, tags[1:], strict=False))
    words = sum(float(scores_NC[place, tag]) for place, tag in enumerate(tags))
    return float(chain.starts_C[tags[0]]) + words + moves + float(chain.ends_C[tags[-1]])


def every(scores_NC: torch.Tensor, length: int, chain: Chain) -> dict[tuple[int, ...], float]:
    return {tags: by_hand(scores_NC, tags, chain) for tags in product(range(NUM_TAGS), repeat=length)}


def test_the_partition_is_the_sum_over_all_paths(problem: tuple[torch.Tensor, torch.Tensor, Chain]) -> None:
    scores_BNC, present_BN, chain = problem
    found = log_partition(scores_BNC, present_BN, chain)
    for row, length in enumerate(LENGTHS):
        wanted = torch.tensor(list(every(scores_BNC[row], length, chain).values()), dtype=torch.float64).logsumexp(0)
        assert float(found[row]) == pytest.approx(float(wanted), abs=1e-10)


def test_the_best_path_is_the_best_of_all(problem: tuple[torch.Tensor, torch.Tensor, Chain]) -> None:
    scores_BNC, present_BN, chain = problem
    tags_BN, best_B = best_paths(scores_BNC, present_BN, chain)
    for row, length in enumerate(LENGTHS):
        paths = every(scores_BNC[row], length, chain)
        best = max(paths, key=paths.__getitem__)
        assert tuple(tags_BN[row, :length].tolist()) == best
        assert float(best_B[row]) == pytest.approx(paths[best], abs=1e-10)
    assert torch.allclose(path_score(scores_BNC, tags_BN, present_BN, chain), best_B)


def test_marginals_are_the_shares_of_all_paths(problem: tuple[torch.Tensor, torch.Tensor, Chain]) -> None:
    scores_BNC, present_BN, chain = problem
    found = marginals(scores_BNC, present_BN, chain)
    for row, length in enumerate(LENGTHS):
        paths = every(scores_BNC[row], length, chain)
        weights = torch.tensor(list(paths.values()), dtype=torch.float64).softmax(0)
        for place in range(length):
            for tag in range(NUM_TAGS):
                wanted = sum(float(weight) for tags, weight in zip(paths, weights, strict=True) if tags[place] == tag)
                assert float(found[row, place, tag]) == pytest.approx(wanted, abs=1e-10)


def test_likelihoods_of_all_paths_sum_to_one_and_padding_does_not_matter(problem: tuple[torch.Tensor, torch.Tensor, Chain]) -> None:
    scores_BNC, present_BN, chain = problem
    for row, length in enumerate(LENGTHS):
        paths = torch.tensor(list(product(range(NUM_TAGS), repeat=length)))
        padded = torch.cat([paths, torch.full((len(paths), max(LENGTHS) - length), 2)], dim=1)
        scores, present = scores_BNC[row].expand(len(paths), -1, -1), present_BN[row].expand(len(paths), -1)
        assert float((-negative_log_likelihood(scores, padded, present, chain)).exp().sum()) == pytest.approx(1.0, abs=1e-10)


def test_a_row_without_words_costs_nothing() -> None:
    chain = LinearChain(NUM_TAGS)(torch.zeros(1, 2, NUM_TAGS))
    lost = negative_log_likelihood(torch.zeros(1, 2, NUM_TAGS), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2).bool(), chain)
    assert lost.tolist() == [0.0]


def test_gradients_are_those_of_finite_differences(problem: tuple[torch.Tensor, torch.Tensor, Chain]) -> None:
    scores_BNC, present_BN, chain = problem
    tags_BN = torch.tensor([[0, 1, 2, 0], [2, 0, 0, 0], [1, 1, 0, 0], [0, 2, 0, 0]])
    tensors = [tensor.clone().requires_grad_() for tensor in (scores_BNC, *chain)]
    assert torch.autograd.gradcheck(lambda scores, *of: negative_log_likelihood(scores, tags_BN, present_BN, Chain(*of)), tensors)


def test_what_iob2_forbids() -> None:
    labels = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    chain = lawful_chain(labels, torch.device("cpu"))
    forbidden = {(one, other) for one in range(5) for other in range(5) if chain.follows_CC[one, other] == FORBIDDEN}
    assert forbidden == {(0, 2), (3, 2), (4, 2), (0, 4), (1, 4), (2, 4)}
    assert [index for index in range(5) if chain.starts_C[index] == FORBIDDEN] == [2, 4]
    wants_orphan = torch.tensor([[[0.0, 0, 5, 0, 0], [0, 0, 5.0, 0, 0]]])
    tags, _ = best_paths(wants_orphan, torch.ones(1, 2).bool(), chain)
    assert [labels[tag] for tag in tags[0]] == ["B-LOC", "I-LOC"]
