"""Writing with a decoder: greedy, or drawn from the probabilities.

B prompts, T tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from luthier.core.work import Batch


class Manner(Protocol):
    """How an answer is written."""

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of an answer."""

    @property
    def temperature(self) -> float:
        """0 takes the most likely token each time."""

    @property
    def top_p(self) -> float:
        """Share of the probability that is drawn from."""


def write(decoder: Any, tokenizer: Any, batch: Batch, manner: Manner) -> list[tuple[int, str, np.ndarray]]:
    """Return for each prompt its id, the text that follows it, and the logits `(V,)` of its first token.

    Args:
        decoder: The decoder.
        tokenizer: Its tokenizer.
        batch: Prompts, padded at the left.
        manner: How an answer is written.
    """
    drawing = manner.temperature > 0
    settings = (
        {"do_sample": True, "temperature": manner.temperature, "top_p": manner.top_p, "top_k": 0} if drawing else {"do_sample": False}
    )
    start = batch.inputs["input_ids"].shape[1]
    found = decoder.model.generate(
        **batch.inputs,
        max_new_tokens=max(1, min(manner.max_new_tokens, _longest(decoder.config) - start)),
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        return_dict_in_generate=True,
        output_logits=True,
        **settings,
    )
    texts = tokenizer.batch_decode(found.sequences[:, start:], skip_special_tokens=True)
    first_BV = found.logits[0].float().cpu().numpy()
    return list(zip(batch.ids, texts, first_BV, strict=True))


def _longest(config: Any) -> int:
    """Return how many tokens the model has places for; without end where it does not say."""
    return int(getattr(config, "max_position_embeddings", None) or 10**9)
