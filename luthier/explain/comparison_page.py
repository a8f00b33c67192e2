"""The page of a comparison: its table and its picture in one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from luthier.explain.comparison import HEADS, cells_of, errors_of, measured_of, note_of, picture_of, seeds_of
from luthier.explain.report import templates
from luthier.version import __version__


def comparison_page(found: Mapping[str, Any]) -> str:
    """Return the page as HTML; every text of the user's is escaped.

    Args:
        found: The object of `comparison.json`.
    """
    drawn = picture_of(found) if any(row["score"] for row in found["rows"]) else ""
    return (
        templates()
        .get_template("comparison.html")
        .render(
            found=found,
            heads=HEADS,
            rows=[cells_of(row) for row in found["rows"]],
            seeds=seeds_of(found),
            measured=[f"{recipe}: {what}" for recipe, what in measured_of(found).items()],
            note=note_of(found),
            errors=errors_of(found),
            picture=Markup(drawn),
            version=__version__,
        )
    )
