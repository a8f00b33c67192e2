"""Questions with their contexts as windows of tokens, with the characters that each token stands for and the tokens of the answer.

W windows of a row, T tokens of a window, C tokens of a window that belong to the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.data.encode import Encoded

CHUNK = 1024
UNKNOWN = -1

Span = tuple[int, int]


class Marks(NamedTuple):
    """What a task must know of the windows of one row beside their tokens.

    Args:
        null_W: The token that stands for "not in this window".
        start_W: First token of the answer, or that token; -1 where the answer is not known.
        end_W: Its last token, likewise.
        begins: For each window the place in the context where each token begins `(T,)`; -1 for tokens of no context.
        ends: The places where they end.
    """

    null_W: np.ndarray
    start_W: np.ndarray
    end_W: np.ndarray
    begins: list[np.ndarray]
    ends: list[np.ndarray]

    def packed(self) -> np.ndarray:
        """Return all of it as one list of numbers."""
        return np.concatenate([self.null_W, self.start_W, self.end_W, *self.begins, *self.ends]).astype(np.int32)

    @classmethod
    def unpacked(cls, numbers: np.ndarray, lengths: Sequence[int]) -> Marks:
        """Return what `packed` made into numbers, for windows of these lengths; more numbers may follow."""
        num, cuts = len(lengths), np.cumsum(lengths)
        of_windows, of_tokens = numbers[: 3 * num].reshape(3, num), numbers[3 * num :][: 2 * cuts[-1]].reshape(2, -1)
        begins, ends = (np.split(row, cuts[:-1]) for row in of_tokens)
        return cls(of_windows[0], of_windows[1], of_windows[2], begins, ends)


@dataclass(frozen=True)
class Windows:
    """Encoded rows with their marks, and what is to be said of them.

    Args:
        encoded: Their tokens.
        marks: One packed `Marks` for each row.
        num_cut: Questions that were too long for any context to stand beside them.
        num_apart: Answers that no window holds whole.
        num_long: Answers of more tokens than the most that is ever answered.
    """

    encoded: Encoded
    marks: list[np.ndarray]
    num_cut: int
    num_apart: int
    num_long: int


def require_room(tokenizer: Any, max_length: int, stride: int) -> None:
    """Refuse windows that share so much with their neighbours that they would never move on.

    Raises:
        ConfigError: if no room is left for a question and a context.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(True)
    if _most_of_question(room, stride) < 1:
        what = f"got {stride}, but windows of {max_length} tokens hold {max(room, 0)} of a question and a context"
        raise ConfigError([Fault("data.window_stride", what, f"such as data.window_stride={max(room // 4, 0)}")])


def windows_of(
    tokenizer: Any,
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Span | None] | None = None,
    *,
    max_length: int,
    stride: int,
    longest_answer: int = 0,
) -> Windows:
    """Encode questions with windows of their contexts.

    Args:
        tokenizer: A fast tokenizer; its truncation and padding settings are replaced.
        questions: The questions; one is cut at its end where it leaves no room for a context.
        contexts: A context for each, read whole.
        answers: Where the answer of each begins and ends in its context, in characters; None for none. None: not known.
        max_length: Longest window in tokens, special tokens included.
        stride: Tokens of the context that neighbouring windows share.
        longest_answer: Answers of more tokens are counted; 0 counts none.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    questions, num_cut = _cut(backend, questions, _most_of_question(max_length - tokenizer.num_special_tokens_to_add(True), stride))
    backend.enable_truncation(max_length, stride=stride, strategy="only_second")
    laid, marks, num_apart, num_long = _Laid([], [], [], []), [], 0, 0
    for row, windows in enumerate(_encoded(backend, questions, contexts)):
        laid.add(windows)
        answer = answers[row] if answers is not None else None
        mark = _marked(tokenizer, windows, answer, known=answers is not None)
        marks.append(mark.packed())
        tokens = (mark.end_W - mark.start_W + 1)[mark.start_W != mark.null_W]
        num_apart += answer is not None and not len(tokens)
        num_long += answer is not None and bool(longest_answer) and int(tokens.max(initial=0)) > longest_answer
    return Windows(laid.encoded(), marks, num_cut, num_apart, num_long)


class _Laid(NamedTuple):
    """Arrays of all windows so far."""

    tokens: list[np.ndarray]
    types: list[np.ndarray]
    lengths: list[int]
    num_windows: list[int]

    def add(self, windows: Sequence[Any]) -> None:
        self.num_windows.append(len(windows))
        for window in windows:
            self.tokens.append(np.array(window.ids, np.int32))
            self.types.append(np.array(window.type_ids, np.int8))
            self.lengths.append(len(window.ids))

    def encoded(self) -> Encoded:
        return Encoded(
            tokens=np.concatenate([np.zeros(0, np.int32), *self.tokens]),
            window_lengths=np.array(self.lengths, np.int32),
            num_windows_N=np.array(self.num_windows, np.int32),
            too_long_N=np.zeros(len(self.num_windows), bool),  # nothing of a context is cut
            type_ids=np.concatenate([np.zeros(0, np.int8), *self.types]),
        )


def _most_of_question(room: int, stride: int) -> int:
    """Return the longest question, in tokens, beside which windows still move on well: by half of what they do not share."""
    return (room - stride) // 2


def _cut(backend: Any, questions: Sequence[str], most: int) -> tuple[list[str], int]:
    """Return the questions with at most so many tokens, and how many were longer."""
    backend.no_truncation()
    kept, num_cut = list(questions), 0
    for start in range(0, len(kept), CHUNK):
        encodings = backend.encode_batch(kept[start : start + CHUNK], add_special_tokens=False)
        for row, encoding in enumerate(encodings, start):
            if len(encoding.ids) > most:
                kept[row] = kept[row][: encoding.offsets[most - 1][1]]
                num_cut += 1
    return kept, num_cut


def _encoded(backend: Any, questions: Sequence[str], contexts: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the windows of each row."""
    for start in range(0, len(questions), CHUNK):
        pairs = list(zip(questions[start : start + CHUNK], contexts[start : start + CHUNK], strict=True))
        yield from ([encoding, *encoding.overflowing] for encoding in backend.encode_batch(pairs))


def _marked(tokenizer: Any, windows: Sequence[Any], answer: Span | None, *, known: bool) -> Marks:
    nulls, spans, begins, ends = [], [], [], []
    for window in windows:
        null = _null_place(tokenizer, window.ids)
        begins_T, ends_T = np.full((2, len(window.ids)), UNKNOWN, np.int32)
        sides = window.sequence_ids
        first, num = (sides.index(1), sides.count(1)) if 1 in sides else (0, 0)
        offsets_C2 = np.array(window.offsets[first : first + num], np.int32).reshape(num, 2)
        begins_T[first : first + num], ends_T[first : first + num] = offsets_C2.T
        inside = span_in(offsets_C2, answer) if answer is not None else None
        spans.append((null, null) if inside is None else (first + inside[0], first + inside[1]))
        nulls.append(null)
        begins.append(begins_T)
        ends.append(ends_T)
    starts_W, ends_W = np.array(spans if known else [(UNKNOWN, UNKNOWN)] * len(windows), np.int32).T
    return Marks(np.array(nulls, np.int32), starts_W, ends_W, begins, ends)


def _null_place(tokenizer: Any, ids: Sequence[int]) -> int:
    """Return the token that says "not in this window": that of the class, else that of the beginning, else the first."""
    return next((ids.index(one) for one in (tokenizer.cls_token_id, tokenizer.bos_token_id) if one is not None and one in ids), 0)


def span_in(offsets_C2: np.ndarray, answer: Span) -> Span | None:
    """Return the tokens of an answer, the last that begins at or before it to the first that ends at or after it, if they are here."""
    begin, end = answer
    if not len(offsets_C2) or offsets_C2[0, 0] > begin or offsets_C2[-1, 1] < end:
        return None
    return int(np.searchsorted(offsets_C2[:, 0], begin, side="right")) - 1, int(np.searchsorted(offsets_C2[:, 1], end, side="left"))
