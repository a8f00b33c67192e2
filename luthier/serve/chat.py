"""A conversation with a model: what was said so far, and answers that come piece by piece."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch, Parts
from luthier.data.conversation import Turn
from luthier.data.prepared import Row
from luthier.serve.predictor import Predictor
from luthier.tasks.task import WritingWork
from luthier.tasks.text.writing import longest_of
from luthier.training.inference import run_batches


@dataclass(frozen=True)
class Said:
    """One answer.

    Args:
        text: The answer.
        num_tokens: Its tokens, with its end.
        ended: `end` where the model ended it, `length` where it was cut at the most tokens, `interrupt` where it was stopped.
        seconds: How long it took.
        forgotten: Earlier turns that were left out, now and before, because they would not fit.
        cut: Tokens of the prompt's beginning that were left out, because it would not fit by itself.
    """

    text: str
    num_tokens: int
    ended: str
    seconds: float
    forgotten: int = 0
    cut: int = 0


@dataclass
class _Watch:
    """Called by `generate` after each token: counts, and stops it where it is asked to."""

    ends: set[int]
    asked_to_stop: threading.Event = field(default_factory=threading.Event)
    num_tokens: int = 0
    ended: bool = False

    def __call__(self, ids_BT: Any, scores: Any, **others: Any) -> Any:
        self.num_tokens += 1
        self.ended = int(ids_BT[0, -1]) in self.ends
        return ids_BT.new_full((len(ids_BT),), self.asked_to_stop.is_set()).bool()


class Chat:
    """A conversation with a run that writes.

    Args:
        predictor: The model; one that was trained on prompts that stand alone answers each of them by itself.

    Raises:
        ConfigError: if the model answers with classes.
    """

    def __init__(self, predictor: Predictor) -> None:
        work: Any = predictor.work
        if not isinstance(work, WritingWork) or not hasattr(work, "talk"):
            raise ConfigError([Fault("RUN", "the model writes no answers to prompts", "use luthier predict")])
        self._predictor, self._work = predictor, cast(Any, work)
        self.turns: list[Turn] = []
        self.last: Said | None = None
        self.answering = False
        self._forgotten = 0
        self._watch = _Watch(set())

    @property
    def remembers(self) -> bool:
        """Whether earlier turns are shown to the model."""
        return self._work.talk is not None

    def reset(self, system: str | None = None) -> None:
        """Forget what was said.

        Args:
            system: What the system says from now on; none: what it said before.
        """
        told = [{"role": "system", "content": system}] if system else [turn for turn in self.turns[:1] if turn["role"] == "system"]
        self.turns, self._forgotten = told, 0

    def stop(self) -> None:
        """End the answer that is being written; what there is of it stays."""
        self._watch.asked_to_stop.set()

    def answer(self, text: str) -> Iterator[str]:
        """Yield the answer piece by piece; `last` then has all of it.

        Args:
            text: What the user says.
        """
        self.turns.append({"role": "user", "content": text})
        started = time.monotonic()
        tokens, cut = self._within_context(text)
        self._watch = _Watch({int(self._work.end), int(self._work.tokenizer.eos_token_id)})
        self.answering = True
        try:
            written = yield from self._pieces(tokens)
        except BaseException:
            self.turns.pop()
            raise
        finally:
            self.answering = False
        ended = "interrupt" if self._watch.asked_to_stop.is_set() else "end" if self._watch.ended else "length"
        self.turns.append({"role": "assistant", "content": written})
        self.last = Said(written, self._watch.num_tokens, ended, time.monotonic() - started, self._forgotten, cut)

    def _within_context(self, text: str) -> tuple[np.ndarray, int]:
        """Return the tokens of the turns that fit before an answer, and how many were cut off the beginning; oldest turns go first."""
        context = longest_of(self._predictor.parts["model"].module.config)
        room = context - min(self._work.settings.max_new_tokens, context // 2)
        if self._work.talk is None:
            tokens = self._work.prompt_tokens([text])[0]
            return tokens[-room:], max(0, len(tokens) - room)
        kept = list(self.turns)
        first = int(kept[0]["role"] == "system")
        tokens = self._work.talk.asked(kept)
        while len(tokens) > room and len(kept) - first > 1:
            del kept[first : first + 2]
            tokens = self._work.talk.asked(kept)
        self._forgotten = len(self.turns) - len(kept)
        return tokens[-room:], max(0, len(tokens) - room)

    def _pieces(self, tokens: np.ndarray) -> Any:
        """Yield pieces as they are written; returns the whole."""
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        streamer = TextIteratorStreamer(self._work.tokenizer, skip_prompt=True, skip_special_tokens=True)
        found: list[Any] = []
        others: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([self._watch])}
        if self._work.settings.num_beams == 1:
            others["streamer"] = streamer

        def call(parts: Parts, batch: Batch) -> Any:
            return self._work.written(parts, batch, **others)

        def write() -> None:
            try:
                batch = self._work.prompted([Row(0, [tokens], None, None)])
                found.extend(run_batches(call, self._predictor.parts, [batch], device=self._predictor.device, alone=True))
            except BaseException as error:  # raised again in the thread that waits
                found.append(error)
            streamer.text_queue.put(None)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield from streamer
        except BaseException:  # whoever reads has left
            self.stop()
            raise
        finally:
            thread.join()
        if isinstance(found[0], BaseException):
            raise found[0]
        text = str(found[0][0][1])
        if "streamer" not in others:
            yield text
        return text
