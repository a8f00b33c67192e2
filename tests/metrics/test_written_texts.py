"""Scores of written texts: the numbers of rouge-score and sacrebleu from sums over rows, Chinese, several references, the bootstrap."""

from __future__ import annotations

import random

import numpy as np
import pytest

from luthier.metrics.joined import Joined
from luthier.metrics.likelihoods import Likelihoods
from luthier.metrics.rouge import rouge
from luthier.metrics.sacre import bleu, chrf
from luthier.metrics.written import Written, exact_match, length, measured, pieces, repetition

WORDS = "a the man woman dog plays with ball red green in on park , . runs two black street".split()
CHINESE = "我你他的是不了在有这个们来到时要就以会可"


def made(num_rows: int, *, chinese: bool = False, num_references: int = 1) -> Written:
    """Texts that share most words with their references."""
    dice, texts, references = random.Random(0), [], []
    join = "" if chinese else " "
    for _ in range(num_rows):
        words = dice.choices(CHINESE if chinese else WORDS, k=dice.randint(4, 14))
        texts.append(join.join(word for word in words if dice.random() < 0.8) or words[0])
        references.append([join.join(word for word in words if dice.random() < 0.9) or words[0] for _ in range(num_references)])
    return Written(np.arange(num_rows), texts, references)


@pytest.mark.parametrize("num_references", [1, 3])
@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_the_mean_of_rouge_score(stemmer: bool, num_references: int) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    written = made(60, num_references=num_references)
    found = measured(written, [rouge(stemmer=stemmer)], primary="rougeL").scores(resamples=0)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    own = [scorer.score_multi(list(right), text) for text, right in zip(written.texts, written.references, strict=True)]
    for kind in ("rouge1", "rouge2", "rougeL"):
        assert found[kind].value == pytest.approx(np.mean([one[kind].fmeasure for one in own]), abs=1e-12)
    assert 0.3 < found["rouge2"].value < found["rouge1"].value < 1


def test_rouge_counts_chinese_characters() -> None:
    one = Written(np.array([1]), ["我们要来"], [["我们会来"]])
    found = measured(one, [rouge()], primary="rougeL").scores(resamples=0)
    assert found["rouge1"].value == pytest.approx(0.75) and found["rouge2"].value == pytest.approx(1 / 3)
    assert found["rougeL"].value == pytest.approx(0.75)
    mixed = Written(np.array([1]), ["BERT模型"], [["bert 模型"]])
    assert measured(mixed, [rouge()], primary="rougeL").scores(resamples=0)["rougeL"].value == 1.0


@pytest.mark.parametrize(("chinese", "num_references"), [(False, 1), (False, 2), (True, 1)])
def test_bleu_and_chrf_are_those_of_sacrebleu(chinese: bool, num_references: int) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    written = made(80, chinese=chinese, num_references=num_references)
    streams = [list(stream) for stream in zip(*written.references, strict=True)]
    sums = measured(written, [bleu(), chrf()], primary="bleu")
    found = sums.scores(resamples=200)
    tokenize = "zh" if chinese else "13a"
    assert found["bleu"].value == pytest.approx(BLEU(tokenize=tokenize).corpus_score(list(written.texts), streams).score, abs=1e-9)
    assert found["chrf"].value == pytest.approx(CHRF().corpus_score(list(written.texts), streams).score, abs=1e-9)
    assert found["bleu"].low < found["bleu"].value < found["bleu"].high and 10 < found["bleu"].value < 90
    assert f"tok:{tokenize}" in sums.details["bleu_signature"]
    half = np.arange(80) < 40
    own = BLEU(tokenize=tokenize).corpus_score(list(written.texts[:40]), [stream[:40] for stream in streams]).score
    assert sums.select(half).scores(resamples=0)["bleu"].value == pytest.approx(own, abs=1e-9)


def test_rows_may_have_different_numbers_of_references() -> None:
    from sacrebleu.metrics import BLEU

    written = Written(np.arange(2), ["the red dog runs in the park", "a man"], [["the red dog runs in a park", "a dog runs"], ["a man"]])
    own = BLEU().corpus_score(list(written.texts), [["the red dog runs in a park", "a man"], ["a dog runs", None]]).score
    assert measured(written, [bleu()], primary="bleu").scores(resamples=0)["bleu"].value == pytest.approx(own, abs=1e-9)


def test_length_repetition_and_exact_match_by_hand() -> None:
    texts = ["a b a b a b a b", "red dog", "我们 run"]
    written = Written(np.arange(3), texts, [["a b"], ["red dog"], ["他们", "我们 run "]])
    sums = measured(written, [length, repetition, exact_match], primary="exact_match")
    found = sums.scores(resamples=0)
    assert found["length"].value == pytest.approx((8 + 2 + 3) / 3) and sums.details["reference_length"] == pytest.approx(2.0)
    assert found["repetition"].value == pytest.approx(3 / 5), "of the five runs of four words in the first text two are new"
    assert found["exact_match"].value == pytest.approx(2 / 3)
    assert pieces("我们 run fast。") == ["我", "们", "run", "fast。"]


def test_nothing_written_scores_nothing() -> None:
    written = Written(np.arange(2), ["", ""], [["a dog"], ["a man"]])
    found = measured(written, [rouge(), bleu(), chrf(), length, repetition], primary="bleu").scores(resamples=10)
    assert {name: score.value for name, score in found.items()} == dict.fromkeys(found, 0.0)


def test_texts_of_some_rows_join_the_likelihoods_of_all() -> None:
    likelihoods = Likelihoods(np.arange(6), np.arange(1.0, 7.0), np.full(6, 2), np.ones(6))
    texts = measured(Written(np.array([0, 2]), ["a dog", "a"], [["a dog"], ["b"]]), [exact_match], primary="exact_match")
    joined = Joined(likelihoods, texts)
    found = joined.scores(resamples=50)
    assert len(joined) == 6 and set(found) == {"loss", "perplexity", "token_accuracy", "exact_match"}
    assert found["exact_match"].value == 0.5 and found["loss"].value == pytest.approx(21 / 12)
    assert list(joined.scores(keys=["exact_match"], resamples=0)) == ["exact_match"]
    first = joined.select(np.arange(6) < 2)
    assert first.scores(resamples=0)["exact_match"].value == 1.0 and first.behind(resamples=5)["written"]["num_rows"] == 1
    none = joined.select(np.arange(6) > 2)
    assert none.texts is None and none.scores(keys=["exact_match", "loss"], resamples=0)["exact_match"].value is None
    assert joined.compared_with(likelihoods, resamples=20, confidence=0.9)["difference"] == 0.0
