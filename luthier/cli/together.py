"""What a person sees of several runs beside the one thing made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.cli.output import Output

SHOWN = ("accuracy", "f1_macro")


def show_singles(name: str, scores: dict[str, Any], singles: list[tuple[str, dict[str, Any], dict[str, Any]]], output: Output) -> None:
    """Show the scores of the whole and of each run, and what the paired comparison says.

    Args:
        name: What the whole is called.
        scores: Its scores.
        singles: Path, scores, and comparison (run as base, whole as tuned) of each run.
        output: Where to show it.
    """
    from rich.table import Table

    from luthier.cli.summary import interval

    keys = [key for key in SHOWN if key in scores] or list(scores)[:2]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for key in keys:
        table.add_column(key, overflow="fold")
    table.add_row(name, *(interval(scores[key]) for key in keys), style="bold")
    shown = short_names([run for run, _, _ in singles])
    for run, (_, own, _) in zip(shown, singles, strict=True):
        table.add_row(run, *(interval(own.get(key)) for key in keys))
    output.show(table)
    output.say("")
    differences = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (f"{name} less", "difference", "paired comparison"):
        differences.add_column(column, no_wrap=column == f"{name} less")
    for run, (_, _, compared) in zip(shown, singles, strict=True):
        apart = f"{compared['difference']:+.3f} ({compared['low']:+.3f} to {compared['high']:+.3f})"
        chance = f" (p {compared['p_value']:.3f})" if compared.get("p_value") is not None else ""
        differences.add_row(run, apart, compared["verdict"] + chance)
    output.show(differences)


def short_names(runs: Sequence[str]) -> list[str]:
    """Return what tells some folders apart: their paths below the folder that all are in."""
    if len(runs) < 2:
        return [Path(run).name or run for run in runs]
    above = os.path.commonpath([os.path.abspath(run) for run in runs])
    return [os.path.relpath(run, above) for run in runs]
