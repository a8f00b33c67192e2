"""Batches of windows with the characters of their tokens, and what a model that points at tokens says of them.

B rows, W windows (as many as rows unless texts are long), T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.work import Batch, Parts
from luthier.data.prepared import Row
from luthier.tasks.text.best_spans import Window
from luthier.tasks.text.span_windows import Marks
from luthier.tasks.text.windows import batch_of_windows, padded

if TYPE_CHECKING:
    import torch

NEVER = -1e30
"""Score of padding."""


def batch_of_marked(rows: Sequence[Row], tokenizer: Any) -> tuple[Batch, list[Marks]]:
    """Return rows as a batch, with the characters of each token in `chars` `(W, T, 2)` and `null` `(W,)`; and the marks of each row.

    Args:
        rows: Encoded rows whose targets begin with packed `Marks`.
        tokenizer: Whose padding is used.
    """
    import torch

    batch = batch_of_windows(rows, tokenizer)
    marks = [Marks.unpacked(np.asarray(row.target), [len(window) for window in row.windows]) for row in rows]
    mask_WT = batch.inputs["attention_mask"].bool().numpy()
    sides = ([one for mark in marks for one in mark.begins], [one for mark in marks for one in mark.ends])
    chars_WT2 = np.stack([padded(side, mask_WT, -1) for side in sides], axis=-1)
    null_W = np.concatenate([mark.null_W for mark in marks]).astype(np.int64)
    known = {"chars": torch.from_numpy(chars_WT2), "null": torch.from_numpy(null_W)}
    return replace(batch, targets={**known, **batch.targets}), marks


def token_scores(parts: Parts, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the score of each token to be the first of a span and to be the last, `(W, T)`; the lowest there is for padding."""
    return scores_given(parts["model"].module(**batch.inputs), batch)


def scores_given(found: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores of `token_scores` from what the model gave."""
    mask_WT = batch.inputs["attention_mask"].bool()
    length = mask_WT.shape[1]  # virtual tokens of an adapter stand before the rows
    scores = (found.start_logits, found.end_logits)
    start_WT, end_WT = (side[:, -length:].float().masked_fill(~mask_WT, NEVER) for side in scores)
    return start_WT, end_WT


def said_of_windows(batch: Batch, start_WT: torch.Tensor, end_WT: torch.Tensor) -> list[list[Window]]:
    """Return what the model said of the windows of each row.

    Args:
        batch: What `batch_of_marked` made.
        start_WT: Score of each token to be the first of a span.
        end_WT: Score of each token to be the last.
    """
    chars_WT2 = batch.targets["chars"].cpu().numpy()
    sides = (start_WT.cpu().numpy(), end_WT.cpu().numpy(), chars_WT2[..., 0], chars_WT2[..., 1], batch.targets["null"].cpu().tolist())
    windows = [Window(*of_window) for of_window in zip(*sides, strict=True)]
    if "window_row" not in batch.targets:
        return [[window] for window in windows]
    owners_W = batch.targets["window_row"].cpu().numpy()
    return [[windows[place] for place in np.flatnonzero(owners_W == row)] for row in range(len(batch.ids))]
