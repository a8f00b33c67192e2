"""Rows of tokens as a causal model takes them, with the places whose next token is learnt; worked out once, when a batch is made.

B rows, T tokens of the longest row, S supervised tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.work import Batch
from luthier.data.prepared import Row

if TYPE_CHECKING:
    from torch import Tensor


def laid_out(rows: Sequence[Row], pad_id: int, *, packing: bool, whole: bool) -> Batch:
    """Return rows of one length as they are; others end to end in one row, or padded at the right.

    Args:
        rows: One window each; `target` is the first token that is learnt, or where stretches that are begin and end, in turns; None
            where nothing is.
        pad_id: Token of padding.
        packing: Lay rows of different lengths end to end; they do not see each other.
        whole: Learn every token, prompts too.
    """
    windows = [row.windows[0] for row in rows]
    lengths_B = np.array([len(window) for window in windows])
    packs = packing and len(set(lengths_B.tolist())) > 1
    offsets_B = np.cumsum(lengths_B) - lengths_B if packs else np.arange(len(rows)) * lengths_B.max()
    inputs = _end_to_end(windows) if packs else _padded(windows, pad_id, left=False)
    targets = {} if rows[0].target is None else _targets(rows, windows, offsets_B, whole)
    return Batch([row.id for row in rows], inputs, targets, num_tokens=int(lengths_B.sum()))


def left_padded(rows: Sequence[Row], pad_id: int) -> Batch:
    """Return prompts padded at the left."""
    windows = [row.windows[0] for row in rows]
    return Batch([row.id for row in rows], _padded(windows, pad_id, left=True), num_tokens=sum(map(len, windows)))


def unpadded(batch: Batch) -> list[Batch]:
    """Return each prompt of a batch that `left_padded` made as a batch of its own, without padding."""
    rows = zip(batch.ids, batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    kept = [(id_, ids_T[mask_T.bool()][None]) for id_, ids_T, mask_T in rows]
    inputs = [{"input_ids": ids_1T, "attention_mask": ids_1T.new_ones(ids_1T.shape)} for _, ids_1T in kept]
    return [Batch([id_], each, num_tokens=ids_1T.shape[1]) for (id_, ids_1T), each in zip(kept, inputs, strict=True)]


def stretches_of(target: Any, length: int) -> list[tuple[int, int]]:
    """Return where what is learnt of a row begins and ends; nothing before it predicts the first token of a row.

    Args:
        target: The first token that is learnt, or where stretches begin and end, in turns.
        length: Tokens of the row.
    """
    if np.ndim(target) == 0:
        return [(max(1, int(target)), length)]
    return [(max(1, int(start)), int(end)) for start, end in np.asarray(target).reshape(-1, 2)]


def learnt_places(target: Any, length: int, whole: bool = False) -> np.ndarray:
    """Return the places of the tokens that are learnt of a row, ascending.

    Args:
        target: What `stretches_of` takes.
        length: Tokens of the row.
        whole: All of them are.
    """
    stretches = [(1, length)] if whole else stretches_of(target, length)
    return np.concatenate([np.arange(start, end) for start, end in stretches])


def _targets(rows: Sequence[Row], windows: list[np.ndarray], offsets_B: np.ndarray, whole: bool) -> dict[str, Tensor]:
    import torch

    spans = [learnt_places(row.target, len(window), whole) - 1 for row, window in zip(rows, windows, strict=True)]
    at_S = np.concatenate([span + offset for span, offset in zip(spans, offsets_B, strict=True)])
    tokens_S = np.concatenate([window[span + 1] for span, window in zip(spans, windows, strict=True)]).astype(np.int64)
    owners_S = np.repeat(np.arange(len(rows)), [len(span) for span in spans])
    return {"at": torch.from_numpy(at_S), "tokens": torch.from_numpy(tokens_S), "row": torch.from_numpy(owners_S)}


def _end_to_end(windows: list[np.ndarray]) -> dict[str, Tensor]:
    from luthier.models.packed import packed_inputs

    return packed_inputs([windows]).inputs


def _padded(windows: list[np.ndarray], pad_id: int, *, left: bool) -> dict[str, Tensor]:
    import torch

    longest = max(map(len, windows))
    ids_BT = np.full((len(windows), longest), pad_id, np.int64)
    mask_BT = np.zeros((len(windows), longest), np.int64)
    for row, window in enumerate(windows):
        span = slice(longest - len(window), longest) if left else slice(0, len(window))
        ids_BT[row, span], mask_BT[row, span] = window, 1
    ids = {"input_ids": torch.from_numpy(ids_BT)}
    return ids if mask_BT.all() and not left else {**ids, "attention_mask": torch.from_numpy(mask_BT)}
