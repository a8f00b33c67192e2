"""Encoded texts as padded batches; a row is one window, or several where its text is long.

B rows, W windows (as many as rows unless long texts were split), T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.work import Batch
from luthier.data.encode import Encoded
from luthier.data.prepared import Row

if TYPE_CHECKING:
    import torch


def batch_of_windows(rows: Sequence[Row], tokenizer: Any) -> Batch:
    """Return the windows of the rows, padded to the longest; where a row has several, `window_row` is the row of each window.

    Args:
        rows: Encoded rows; what they are to learn is left to the task.
        tokenizer: Whose padding is used.
    """
    import torch

    windows = [window for row in rows for window in row.windows]
    lengths_W = np.fromiter(map(len, windows), np.int64, len(windows))
    mask_WT = np.arange(lengths_W.max()) < lengths_W[:, None]
    ids_WT = padded(windows, mask_WT, tokenizer.pad_token_id or 0)
    inputs = {"input_ids": torch.from_numpy(ids_WT), "attention_mask": torch.from_numpy(mask_WT.astype(np.int64))}
    if rows[0].type_ids is not None and "token_type_ids" in tokenizer.model_input_names:
        types = [types for row in rows for types in row.type_ids or ()]
        inputs["token_type_ids"] = torch.from_numpy(padded(types, mask_WT, 0))
    targets = {}
    if len(windows) > len(rows):
        targets["window_row"] = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(row.windows) for row in rows]))
    records = tuple(row.record for row in rows if row.record is not None)
    return Batch([row.id for row in rows], inputs, targets, num_tokens=int(lengths_W.sum()), records=records)


def padded(windows: Sequence[np.ndarray], mask_WT: np.ndarray, padding: int) -> np.ndarray:
    """Return windows as one array, filled up where the mask is False."""
    filled_WT = np.full(mask_WT.shape, padding, np.int64)
    filled_WT[mask_WT] = np.concatenate(windows)
    return filled_WT


def mean_of_windows(values_WX: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the mean over each row's windows, `(B, X)`; the values themselves where every row is one window."""
    owners_W = batch.targets.get("window_row")
    if owners_W is None:
        return values_WX
    sums_BX = values_WX.new_zeros(len(batch.ids), values_WX.shape[1]).index_add(0, owners_W, values_WX)
    return sums_BX / owners_W.bincount(minlength=len(batch.ids)).unsqueeze(1)


def rows_of(encoded: Encoded, records: Sequence[str] | None = None) -> Iterable[Row]:
    """Yield new texts as rows without targets, numbered from 0.

    Args:
        encoded: Their tokens.
        records: What the task keeps of each, as JSON, where it keeps anything.
    """
    window = 0
    starts = np.concatenate([[0], np.cumsum(encoded.window_lengths)])
    for index, count in enumerate(encoded.num_windows_N):
        spans = [slice(starts[w], starts[w + 1]) for w in range(window, window + int(count))]
        types = None if encoded.type_ids is None else [encoded.type_ids[span] for span in spans]
        yield Row(index, [encoded.tokens[span] for span in spans], types, None, None if records is None else records[index])
        window += int(count)
