"""What a model says of hidden places: in words for people, in sums for the scores.

S hidden places of a row, K likeliest tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.work import Answer, RowOutputs
from luthier.metrics.likelihoods import likelihood_sums
from luthier.metrics.row_sums import RowSums

MOST_MISTAKES = 20


@dataclass(frozen=True)
class Said:
    """What a model says of the hidden places of a row.

    Args:
        words_SK: Likeliest tokens, best first.
        logs_SK: Their log-probabilities; of rows whose truth is known, the log-probability of the right token.
        right_S: The right tokens, where they are known.
    """

    words_SK: np.ndarray
    logs_SK: np.ndarray
    right_S: np.ndarray | None = None


def answer_of(said: Said, tokenizer: Any) -> Answer:
    """Return for each hidden place the likeliest words, best first, with their probabilities."""
    return Answer(
        [
            [{"word": word_of(tokenizer, word), "probability": round(float(np.exp(log)), 4)} for word, log in zip(words, logs, strict=True)]
            for words, logs in zip(said.words_SK, said.logs_SK, strict=True)
        ],
        {},
    )


def scores_of(outputs: RowOutputs, tokenizer: Any) -> RowSums:
    """Return loss, perplexity and token accuracy, and the rows whose hidden words the model finds least likely."""
    nats = np.array([-one.logs_SK.sum() for one in outputs.said])
    tokens = np.array([len(one.right_S) for one in outputs.said])
    right = np.array([(one.words_SK[:, 0] == one.right_S).sum() for one in outputs.said])
    worst = np.argsort(-nats / tokens, kind="stable")[:MOST_MISTAKES]
    mistakes = [_mistake(int(outputs.ids[row]), outputs.said[row], tokenizer) for row in worst]
    return likelihood_sums(outputs.ids, nats, right, tokens, {"num_tokens": int(tokens.sum()), "mistakes": mistakes})


def word_of(tokenizer: Any, token: int) -> str:
    """Return a token as a person reads it; a piece that goes on with a word keeps its mark."""
    written = str(tokenizer.convert_ids_to_tokens(int(token)))
    return written if written.startswith("##") else str(tokenizer.decode([int(token)])).strip() or written


def _mistake(id_: int, said: Said, tokenizer: Any) -> dict[str, Any]:
    assert said.right_S is not None
    wrong = said.words_SK[:, 0] != said.right_S
    truth, predicted = ([word_of(tokenizer, token) for token in tokens[wrong]] for tokens in (said.right_S, said.words_SK[:, 0]))
    return {"id": id_, "truth": truth, "predicted": predicted}
