"""Writing with a decoder: the most likely token each time, by beams, drawn from the probabilities, or one of some answers.

B prompts, T tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from luthier.core.config import validate
from luthier.core.errors import ConfigError
from luthier.core.work import Batch
from luthier.tasks.task import Task

Settings = TypeVar("Settings", bound=Task)


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


def in_manner(settings: Settings, manner: Mapping[str, Any]) -> Settings:
    """Return the settings of a task with other ones of how an answer is written.

    Args:
        settings: The settings.
        manner: Those that are other, by name.

    Raises:
        ConfigError: if a value is out of its range.
    """
    kept = {name: getattr(settings, name) for name in type(settings).model_fields}
    found, faults = validate(type(settings), {**kept, **manner}, path="task")
    if found is None:
        raise ConfigError(faults)
    return found


def write(
    decoder: Any,
    tokenizer: Any,
    batch: Batch,
    manner: Manner,
    *,
    end: int | None = None,
    choices: Sequence[Sequence[int]] = (),
    **others: Any,
) -> list[tuple[int, str, np.ndarray]]:
    """Return for each prompt its id, the text that follows it, and the logits `(V,)` of its first token.

    Args:
        decoder: The decoder.
        tokenizer: Its tokenizer.
        batch: Prompts, padded at the left.
        manner: How an answer is written.
        end: Token that ends an answer, beside the end of text.
        choices: Tokens of the answers that are allowed, each with its end; none: any.
        others: What `generate` is called with besides, such as a streamer.
    """
    start = batch.inputs["input_ids"].shape[1]
    wished = max(manner.max_new_tokens, *map(len, choices)) if choices else manner.max_new_tokens
    found = decoder.model.generate(
        **batch.inputs,
        max_new_tokens=max(1, min(wished, longest_of(decoder.config) - start)),
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        eos_token_id=sorted({tokenizer.eos_token_id, tokenizer.eos_token_id if end is None else end}),
        return_dict_in_generate=True,
        output_logits=True,
        **_manner(manner),
        **({"prefix_allowed_tokens_fn": Allowed(choices, start, tokenizer.eos_token_id)} if choices else {}),
        **others,
    )
    texts = tokenizer.batch_decode(found.sequences[:, start:], skip_special_tokens=True)
    first_BV = found.logits[0].float().cpu().numpy()[:: len(found.logits[0]) // len(batch.ids)]  # one of each row's beams
    return list(zip(batch.ids, texts, first_BV, strict=True))


class Allowed:
    """Which tokens may come next, where only some answers are allowed; see `prefix_allowed_tokens_fn` of transformers.

    Args:
        choices: Tokens of the answers, each with its end.
        start: Tokens of the prompts, padding included.
        over: What may follow a whole answer.
    """

    def __init__(self, choices: Sequence[Sequence[int]], start: int, over: int) -> None:
        self._start, self._over = start, over
        self._next: dict[tuple[int, ...], list[int]] = {}
        for choice in choices:
            for length, token in enumerate(choice):
                after = self._next.setdefault(tuple(choice[:length]), [])
                after += [token] if token not in after else []

    def __call__(self, row: int, ids_T: Any) -> list[int]:
        """Return the tokens that may come after `ids_T`."""
        return self._next.get(tuple(ids_T[self._start :].tolist()), [self._over])


def longest_of(config: Any) -> int:
    """Return how many tokens a model has places for; without end where it does not say."""
    return int(getattr(config, "max_position_embeddings", None) or 10**9)


def _manner(manner: Manner) -> dict[str, Any]:
    """Return settings as `generate` takes them; those that are left as they are do not go there at all."""
    settings: dict[str, Any] = {"do_sample": False}
    if manner.temperature > 0:
        settings = {"do_sample": True, "temperature": manner.temperature, "top_p": manner.top_p, "top_k": getattr(manner, "top_k", 0)}
        least = getattr(manner, "min_p", 0.0)
        settings |= {"min_p": least} if least else {}
    for name, usual in (("num_beams", 1), ("repetition_penalty", 1.0), ("no_repeat_ngram_size", 0)):
        value = getattr(manner, name, usual)
        settings |= {name: value} if value != usual else {}
    return settings
