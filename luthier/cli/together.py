"""What a person sees of several runs beside the one thing made of them."""

from __future__ import annotations

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

    keys = [key for key in SHOWN if key in scores] or list(scores)[:3]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", *keys, f"{name} - run", "paired test"):
        table.add_column(column, overflow="fold")
    table.add_row(name, *(interval(scores[key]) for key in keys), "", "", style="bold")
    for run, own, compared in singles:
        difference = f"{compared['difference']:+.3f} ({compared['low']:+.3f} to {compared['high']:+.3f})"
        table.add_row(run, *(interval(own.get(key)) for key in keys), difference, f"p {compared['p_value']:.3f}, {compared['verdict']}")
    output.show(table)
