"""Rows without labels beside those with: of them only the teacher's answers are learnt.

They come into a batch as old rows do where they are replayed, so that micro-batches, processes and a resume do not matter.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from luthier.core.errors import DataError
from luthier.core.work import Batch
from luthier.data.reading import BadRow
from luthier.data.section import DataSection
from luthier.data.stream import stream_rows
from luthier.recipe import Recipe
from luthier.tasks.task import ClassWork
from luthier.training.retention.replay import OldRows

log = logging.getLogger("luthier")
KEY = "distill.unlabelled"
READ_ALIKE = ("text", "text_pair", "format", "header", "quoting", "delimiter", "encoding")


def unlabelled_rows(recipe: Recipe, work: ClassWork) -> OldRows | None:
    """Read and encode the rows that `distill.unlabelled` names; None where it names none. Rows that cannot be used are counted and said.

    Args:
        recipe: The recipe; columns are read as those of the training rows.
        work: The task at work.

    Raises:
        DataError: if there is no such file, or no row in it can be used.
    """
    assert recipe.distill is not None
    source = recipe.distill.unlabelled
    if source is None:
        return None
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"no such file: {source}", where=KEY, fix="name a file of texts, read as data.train is")
    section = DataSection.model_validate({name: getattr(recipe.data, name) for name in READ_ALIKE})
    bad: list[BadRow] = []
    tables = list(stream_rows(str(path), section, bad=bad, notes=[]))
    texts = [text for table in tables for text in table["text"].to_pylist()]
    if not texts:
        raise DataError(f"no row of '{source}' can be used", where=KEY, fix="it has to have a text in each row, as data.train has")
    pairs = [text for table in tables for text in table["text_pair"].to_pylist()] if "text_pair" in tables[0].column_names else None
    rows = list(work.encode(texts, pairs))
    left = f"; {len(bad)} cannot be used, such as row {bad[0].row}: {bad[0].reason}" if bad else ""
    log.info("%s rows of %s are learnt from the teacher alone%s", f"{len(rows):,}", source, left)

    def collate(places: np.ndarray) -> Batch:
        return work.collate([rows[int(place)] for place in places])

    return OldRows(len(rows), collate, recipe.distill.unlabelled_share, recipe.training.seed)
