"""Rows that nothing would be learnt of: all that was to be learnt was cut away, or never there."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.core.errors import DataError
from luthier.data.reading import BadRow
from luthier.data.section import DataSection

UNLEARNT = "nothing to learn"
"""How the reason of such a row begins; what it is stands behind it in brackets."""
SHOWN = 3


def unlearnt(why: str) -> str:
    """Return the reason of a row that nothing would be learnt of.

    Args:
        why: What is the matter with it, such as `the prompt alone has 96 tokens or more`.
    """
    return f"{UNLEARNT} ({why})"


def refuse_unlearnt(bad: Sequence[BadRow], num_rows: int, data: DataSection, *, source: str) -> None:
    """Stop where too many rows of a split teach nothing, or all do.

    Args:
        bad: Those rows.
        num_rows: All rows of the split, those included.
        data: Says what share is allowed.
        source: What to call the rows in the message.

    Raises:
        DataError: if there are too many.
    """
    if not bad or (len(bad) <= data.max_unlearnt_rows * num_rows and len(bad) < num_rows):
        return
    first = "; ".join(f"row {one.row}: {one.reason.partition(' (')[2].removesuffix(')')}" for one in bad[:SHOWN])
    share = min(1.0, -(-len(bad) * 1000 // num_rows) / 1000)
    fix = "mend or shorten them, or give them room with data.max_length"
    allow = f"; or leave them out with data.max_unlearnt_rows={share:g}" if len(bad) < num_rows else ""
    what = f"nothing would be learnt of {len(bad):,} of {num_rows:,} rows ({len(bad) / num_rows:.1%}) of '{source}'"
    raise DataError(f"{what}; at most {data.max_unlearnt_rows:.1%} may be such", where=first, fix=fix + allow)
