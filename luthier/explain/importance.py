"""The picture of a sweep: how much of the differences between its trials each key explains."""

from __future__ import annotations

from collections.abc import Mapping

from luthier.explain.svg import card, escape, fit, picture, tag, text_width, words

WIDTH, ROW, MARGIN = 760.0, 26.0, 16.0
MOST_NAME = 300.0


def importance_file(importance: Mapping[str, float], *, metric: str, num_trials: int) -> str:
    """Draw a bar for each key as a file of its own.

    Args:
        importance: Share of the differences that each key explains, from 0 to 1, the largest first.
        metric: The score that differs.
        num_trials: Trials that were compared.
    """
    left = min(MOST_NAME, max(text_width(key) for key in importance)) + 10
    room = WIDTH - left - 50
    bars = []
    for place, (key, share) in enumerate(importance.items()):
        top = 30 + place * ROW
        name = tag("g", tag("title", escape(key)), words(fit(key, MOST_NAME), left - 8, top + 14, anchor="end"))
        bar = tag("rect", x=left, y=top + 2, width=max(share * room, 1.0), height=ROW - 9, rx=2.0, class_="first-fill")
        bars += [name, bar, words(f"{share:.0%}", left + max(share * room, 1.0) + 6, top + 14, class_="soft small")]
    heading = words(f"share of the differences in {metric} that each key explains, {num_trials} trials", 0, 14, class_="soft small")
    first = next(iter(importance))
    said = f"{first} explains {importance[first]:.0%} of the differences in {metric} between {num_trials} trials."
    height = 34 + len(importance) * ROW
    drawn = (card(MARGIN), heading, *bars)
    return picture(WIDTH, height, "Which keys mattered", *drawn, description=said, margin=MARGIN) + "\n"
