"""Texts to token ids, in parallel, with long texts cut or split into windows and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from luthier.core.errors import DataError

CHUNK = 4096


@dataclass(frozen=True)
class Encoded:
    """Token ids of N rows; a row is one window, or several where its text is long.

    Args:
        tokens: All ids of all windows, one after the other.
        window_lengths: Length of each window.
        num_windows_N: How many windows each row has.
        too_long_N: Whether the row's text was longer than a window.
        type_ids: Segment of each token (0 first text, 1 second), where rows are pairs.
    """

    tokens: np.ndarray
    window_lengths: np.ndarray
    num_windows_N: np.ndarray
    too_long_N: np.ndarray
    type_ids: np.ndarray | None = None

    @property
    def num_tokens_N(self) -> np.ndarray:
        """Tokens of each row, all its windows together."""
        ends = np.cumsum(self.num_windows_N)
        totals = np.concatenate([[0], np.cumsum(self.window_lengths)])
        return totals[ends] - totals[ends - self.num_windows_N]


def encode(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int, windows: bool = False, stride: int = 0
) -> Encoded:
    """Turn texts into token ids with the tokenizer's own special tokens.

    Args:
        tokenizer: A fast tokenizer; its truncation and padding settings are replaced.
        texts: The texts.
        pairs: A second text for each, or None.
        max_length: Longest window in tokens, special tokens included.
        windows: Split longer texts into windows; otherwise they are cut at the end.
        stride: Tokens that neighbouring windows share.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    if windows and pairs:
        _require_room(tokenizer, pairs, max_length, stride)
    backend.enable_truncation(max_length, stride=stride if windows else 0, strategy="only_first" if windows and pairs else "longest_first")
    parts = [
        _encode_chunk(backend, texts[i : i + CHUNK], pairs[i : i + CHUNK] if pairs else None, windows) for i in range(0, len(texts), CHUNK)
    ]

    def join(name: str, dtype: type) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0, dtype)

    return Encoded(
        tokens=join("tokens", np.int32),
        window_lengths=join("window_lengths", np.int32),
        num_windows_N=join("num_windows_N", np.int32),
        too_long_N=join("too_long_N", bool),
        type_ids=join("type_ids", np.int8) if pairs is not None else None,
    )


def _require_room(tokenizer: Any, pairs: Sequence[str], max_length: int, stride: int) -> None:
    """Refuse second texts, which stand whole in every window, that leave no room to move over the first."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    lengths = [len(encoding.ids) for encoding in backend.encode_batch_fast(list(pairs), add_special_tokens=False)]
    room = max_length - tokenizer.num_special_tokens_to_add(True) - stride
    too_long = sum(length >= room for length in lengths)
    if too_long:
        raise DataError(
            f"{too_long} rows have a second text of {room} tokens or more (up to {max(lengths)}), which stands whole in every window of "
            f"{max_length}: no room is left to move over the first text",
            where="data.text_pair",
            fix="cut the texts with data.long_texts=truncate, or share less with data.window_stride",
        )


def _encode_chunk(backend: Any, texts: Sequence[str], pairs: Sequence[str] | None, windows: bool) -> Encoded:
    rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
    encodings = backend.encode_batch_fast(rows)
    overflowing = [encoding.overflowing for encoding in encodings]
    grouped = [[encoding, *rest] if windows else [encoding] for encoding, rest in zip(encodings, overflowing, strict=True)]
    flat = [window for group in grouped for window in group]
    ids = [window.ids for window in flat]
    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    return Encoded(
        tokens=np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())),
        window_lengths=lengths,
        num_windows_N=np.fromiter(map(len, grouped), np.int32, len(grouped)),
        too_long_N=np.fromiter(map(bool, overflowing), bool, len(overflowing)),
        type_ids=np.concatenate([np.asarray(window.type_ids, np.int8) for window in flat]) if pairs is not None else None,
    )
