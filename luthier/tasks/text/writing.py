"""Writing with a decoder: greedy, or drawn from the probabilities.

B prompts, T tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from luthier.core.work import Batch


class Manner(Protocol):
    """How an answer is written."""

    max_new_tokens: int
    temperature: float
    top_p: float


def write(
    decoder: Any, tokenizer: Any, batch: Batch, manner: Manner, *, max_new_tokens: int | None = None
) -> list[tuple[int, str, np.ndarray]]:
    """Return for each prompt its id, the text that follows it, and the logits `(V,)` of its first token.

    Args:
        decoder: The decoder.
        tokenizer: Its tokenizer.
        batch: Prompts, padded at the left.
        manner: How an answer is written.
        max_new_tokens: Most tokens, where not those of the manner.
    """
    drawing = manner.temperature > 0
    settings = {"do_sample": True, "temperature": manner.temperature, "top_p": manner.top_p, "top_k": 0} if drawing else {"do_sample": False}
    found = decoder.model.generate(
        **batch.inputs,
        max_new_tokens=max_new_tokens or manner.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        return_dict_in_generate=True,
        output_logits=True,
        **settings,
    )
    start = batch.inputs["input_ids"].shape[1]
    texts = tokenizer.batch_decode(found.sequences[:, start:], skip_special_tokens=True)
    first_BV = found.logits[0].float().cpu().numpy()
    return list(zip(batch.ids, texts, first_BV, strict=True))
