"""A range test for a recipe: what it finds, as plain data and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.data.prepared import Prepared
from luthier.explain.rate_chart import rate_file
from luthier.recipe import Recipe
from luthier.stages.layout.begin import lay_out, optimiser_of
from luthier.stages.layout.start_head import start_head
from luthier.stages.running.following import FOLLOWER
from luthier.stages.running.several import each_task
from luthier.training.range_test import Found, Rates, range_test
from luthier.training.step_rules import rule_of

RULE = "a tenth of the rate of the lowest loss"
REFERENCE = "https://arxiv.org/abs/1506.01186"


def find_rate(recipe: Recipe, prepared: Prepared, folder: Path, rates: Rates) -> dict[str, Any]:
    """Do a range test and write `find-lr.json` and `find-lr.svg`; nothing is trained.

    Args:
        recipe: The recipe; its own rate does not matter, but the proportion of the head's.
        prepared: Encoded rows.
        folder: Where the two files go.
        rates: Which rates are tried.

    Returns:
        The object of `find-lr.json`.
    """
    bench = lay_out(recipe, prepared)
    for one in each_task(bench).values():
        start_head(one)
    rule = rule_of(bench.recipe.training.step_rule)
    windows = iter(bench.saved.source)
    parts = {name: part for name, part in bench.parts.items() if name != FOLLOWER}
    found = range_test(windows, parts, lambda parts: optimiser_of(bench.recipe, parts, bench.new), bench.work, rule, bench.care, rates)
    facts = facts_of(found)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "find-lr.json", facts)
    files.write_text(folder / "find-lr.svg", rate_file(facts))
    return facts | {"files": [str(folder / "find-lr.json"), str(folder / "find-lr.svg")]}


def facts_of(found: Found) -> dict[str, Any]:
    """Return what a range test found as plain data; a loss that is not finite is left out."""
    points = [
        {"rate": point.rate, "loss": point.loss, "untouched": point.untouched, "smooth": point.smooth}
        for point in found.points
        if math.isfinite(point.loss) and math.isfinite(point.smooth)
    ]
    return {
        "rate": found.rate,
        "rule": RULE,
        "reference": REFERENCE,
        "lowest": found.lowest,
        "steepest": found.steepest,
        "exploded": found.exploded,
        "steps": len(found.points),
        "points": points,
    }
