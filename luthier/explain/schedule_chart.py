"""The picture of a schedule: the learning rates over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.explain.curves import thin
from luthier.explain.svg import LIGHT, STYLE, Frame, path, picture, round_steps, tag, text_width, words
from luthier.explain.wording import count, rate

WIDTH, HEIGHT, MARGIN = 760.0, 300.0, 16.0
MOST_POINTS, MOST_EPOCHS = 600, 12


def schedule_file(found: Mapping[str, Any]) -> str:
    """Draw the rates of every step as a file of its own.

    Args:
        found: `factors` of every step, `rates` by name with their `peak`, `steps`, `steps_per_epoch`, `warmup_steps`.
    """
    highest = {name: values["peak"] / max(found["factors"]) for name, values in found["rates"].items()}
    levels = round_steps(0.0, max(highest.values()), most=5)
    left = max(text_width(rate(level), 10.5) for level in levels) + 10
    frame = Frame(left, 30, WIDTH - 8, HEIGHT - 40, 1, found["steps"], 0.0, max(highest.values()))
    style = STYLE
    for name, colour in LIGHT.items():
        style = style.replace(f"var(--{name})", colour)
    background = tag("rect", x=-MARGIN, y=-MARGIN, width="100%", height="100%", fill=LIGHT["card"])
    lines, legend, x = [], [], left
    curve = thin([(float(step), factor) for step, factor in enumerate(found["factors"], 1)], most=MOST_POINTS)
    for (name, top), look in zip(highest.items(), ("first", "second"), strict=True):
        lines.append(path([(frame.x(step), frame.y(top * factor)) for step, factor in curve], f"line {look}"))
        legend += [path([(x, 12), (x + 16, 12)], f"line {look}"), words(name, x + 21, 16, class_="small")]
        x += 21 + text_width(name, 10.5) + 16
    said = ", ".join(f"{name}: highest {rate(values['peak'])}" for name, values in found["rates"].items())
    drawn = (tag("style", style) + background, *_axes(frame, levels), *_marks(frame, found), *lines, *legend)
    return picture(WIDTH, HEIGHT, "Learning rate over the steps", *drawn, description=said, margin=MARGIN) + "\n"


def _axes(frame: Frame, levels: list[float]) -> list[str]:
    parts = []
    for level in levels:
        parts.append(path([(frame.left, frame.y(level)), (frame.right, frame.y(level))], "grid"))
        parts.append(words(rate(level), frame.left - 6, frame.y(level) + 4, class_="soft small", anchor="end"))
    for step in round_steps(frame.x_low, frame.x_high, most=6):
        near_end = frame.x(step) > frame.right - 16
        parts.append(words(count(step), frame.x(step), frame.bottom + 16, class_="soft small", anchor="end" if near_end else "middle"))
    parts.append(words("step →", frame.right, frame.bottom + 34, class_="soft small", anchor="end"))
    return parts


def _marks(frame: Frame, found: Mapping[str, Any]) -> list[str]:
    """Draw where the warm-up and, unless they are many, the epochs end."""
    epochs = range(found["steps_per_epoch"], found["steps"], found["steps_per_epoch"])
    ends = list(epochs) if len(epochs) < MOST_EPOCHS else []
    parts = [path([(frame.x(end), frame.top), (frame.x(end), frame.bottom)], "grid") for end in ends]
    if 0 < found["warmup_steps"] < found["steps"]:
        x = frame.x(found["warmup_steps"] + 1)
        parts.append(path([(x, frame.top), (x, frame.bottom)], "axis dashed"))
        parts.append(words("end of the warm-up", x + 5, frame.bottom - 6, class_="soft small"))
    return parts
