"""Pairs of source and target as tokens: one row holds both, one after the other, and `target` says where the second begins.

B rows, T tokens of the longest source, U of the longest target, S supervised tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.work import Batch
from luthier.data.encode import Encoded
from luthier.data.prepared import Row
from luthier.tasks.text.windows import padded

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 4096
IGNORED = -100


@dataclass(frozen=True)
class Words:
    """How texts become tokens: sources as the tokenizer has them, targets with an end of text.

    Args:
        tokenizer: A fast tokenizer that knows an end of text.
        longest_source: Most tokens of a source.
        longest_target: Most tokens of a target.
    """

    tokenizer: Any
    longest_source: int
    longest_target: int

    def sources(self, texts: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the tokens of sources, and which of them were cut."""
        return _cut(self._encoded(texts), self.longest_source, kept=self.tokenizer.all_special_ids)

    def targets(self, texts: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the tokens of targets, and which of them were cut."""
        end = self.tokenizer.eos_token_id
        ended = [ids if ids and ids[-1] == end else [*ids, end] for ids in self._encoded(texts)]
        return _cut(ended, self.longest_target, kept=[end])

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Return tokens with the tokenizer's own special ones."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        chunks = (list(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK))
        return [one.ids for chunk in chunks for one in backend.encode_batch_fast(chunk)]


def _cut(rows: Sequence[list[int]], most: int, *, kept: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return rows of at most so many tokens, and which were longer; a last token that is to be kept stays the last."""
    cut_N = np.array([len(ids) > most for ids in rows], bool)
    ends = [ids[-1:] if ids and ids[-1] in kept else [] for ids in rows]
    short = [ids if len(ids) <= most else [*ids[: most - len(end)], *end] for ids, end in zip(rows, ends, strict=True)]
    return [np.asarray(ids, np.int32) for ids in short], cut_N


def pairs_encoded(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], cut_N: np.ndarray) -> tuple[Encoded, np.ndarray]:
    """Return rows of both, and the first token of each target `(N,)`."""
    rows = [np.concatenate(pair) for pair in zip(sources, targets, strict=True)]
    lengths_N = np.array([len(row) for row in rows], np.int32)
    tokens = np.concatenate([np.zeros(0, np.int32), *rows])
    starts_N = np.array([len(source) for source in sources], np.int64)
    return Encoded(tokens, lengths_N, np.ones(len(rows), np.int32), cut_N), starts_N


def laid_out(rows: Sequence[Row], pad_id: int) -> Batch:
    """Return sources padded at the right and, where they are known, targets as labels padded with -100 and as places to learn."""
    starts = [len(row.windows[0]) if row.target is None else int(row.target) for row in rows]
    inputs = _sources([row.windows[0][:start] for row, start in zip(rows, starts, strict=True)], pad_id)
    targets: dict[str, Tensor] = {}
    if rows[0].target is not None:
        wanted = [row.windows[0][start:] for row, start in zip(rows, starts, strict=True)]
        inputs["labels"], targets = _targets(wanted)
    records = tuple(row.record for row in rows if row.record is not None)
    return Batch([row.id for row in rows], inputs, targets, num_tokens=sum(len(row.windows[0]) for row in rows), records=records)


def _sources(windows: list[np.ndarray], pad_id: int) -> dict[str, Tensor]:
    import torch

    mask_BT = _mask(windows)
    ids_BT = padded(windows, mask_BT, pad_id)
    return {"input_ids": torch.from_numpy(ids_BT), "attention_mask": torch.from_numpy(mask_BT.astype(np.int64))}


def _targets(windows: list[np.ndarray]) -> tuple[Tensor, dict[str, Tensor]]:
    import torch

    mask_BU = _mask(windows)
    owners_S, places_S = mask_BU.nonzero()
    at_S = owners_S * mask_BU.shape[1] + places_S
    tokens_S = np.concatenate(windows).astype(np.int64)
    found = {"at": torch.from_numpy(at_S), "tokens": torch.from_numpy(tokens_S), "row": torch.from_numpy(owners_S)}
    return torch.from_numpy(padded(windows, mask_BU, IGNORED)), found


def _mask(windows: list[np.ndarray]) -> np.ndarray:
    lengths = np.fromiter(map(len, windows), np.int64, len(windows))
    return np.asarray(np.arange(lengths.max()) < lengths[:, None])
