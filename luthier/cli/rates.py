"""What a person sees of a range test: a small curve and the next command."""

from __future__ import annotations

import shlex
from typing import Any

from luthier.cli.output import Output

WIDTH, HEIGHT = 60, 10
HIGHEST = 1.5  # times the first loss, where the curve ends


def show_rates(found: dict[str, Any], words: list[str], output: Output) -> None:
    """Show the curve, the proposed rate, and the command that trains with it.

    Args:
        found: What `flow.find_rate` returned.
        words: What was given on the command line, without what belongs to the range test.
        output: Where to show it.
    """
    for line in curve(found["points"], found["rate"]):
        output.say(line)
    output.say()
    output.say(f"proposed rate: {found['rate']:g} ({found['rule']}, {found['lowest']:.1e};")
    output.say(f"the loss falls most at {found['steepest']:.1e}). Reference: Smith 2017,")
    output.say(found["reference"])
    for name in found["files"]:
        output.say(f"written: {name}")
    output.say(f"train with it: luthier train {shlex.join(words)} --lr {found['rate']:g}")


def curve(points: list[dict[str, float]], proposed: float) -> list[str]:
    """Return the running mean of the loss over the rate, drawn with characters; `^` stands below the proposed rate."""
    if len(points) < 2:
        return ["too few steps for a curve"]
    values = [min(point["smooth"], HIGHEST * points[0]["smooth"]) for point in points]
    low, high = min(values), max(values)
    columns = [values[round(place * (len(values) - 1) / (WIDTH - 1))] for place in range(WIDTH)]
    rows = [round((value - low) / ((high - low) or 1) * (HEIGHT - 1)) for value in columns]
    lines = []
    for row in range(HEIGHT - 1, -1, -1):
        level = f"{low + (high - low) * row / (HEIGHT - 1):8.3f}" if row in (0, HEIGHT - 1) else " " * 8
        lines.append(f"{level} |" + "".join("*" if at == row else " " for at in rows).rstrip())
    nearest = min(range(len(points)), key=lambda place: abs(points[place]["rate"] / proposed - 1))
    lines.append(" " * 9 + "+" + "-" * WIDTH)
    lines.append(" " * 10 + " " * round(nearest * (WIDTH - 1) / (len(points) - 1)) + "^")
    first, last = f"{points[0]['rate']:.0e}", f"{points[-1]['rate']:.0e}"
    lines.append(" " * 10 + first + f"{last:>{WIDTH - len(first)}}")
    return lines
