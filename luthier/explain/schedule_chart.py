"""The picture of a schedule: the learning rates over the steps of a run, and below them which layers are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.explain.axes import SMALL, level_lines, level_room, step_axis
from luthier.explain.curves import thin
from luthier.explain.layer_chart import NAME_ROOM, layer_panel, panel_height
from luthier.explain.svg import Frame, card, path, picture, round_steps, text_width, words
from luthier.explain.wording import rate

WIDTH, HEIGHT, MARGIN = 760.0, 300.0, 16.0
BETWEEN = 24.0  # what is below the rates and above the layers
MOST_POINTS, MOST_EPOCHS = 600, 12
LAST_WORD = 70.0  # room at the right end for what the axis means


def schedule_file(found: Mapping[str, Any]) -> str:
    """Draw the rates of every step as a file of its own.

    Args:
        found: `factors` of every step, `rates` by name with their `peak`, `steps`, `steps_per_epoch`, `warmup_steps`, and `layers`.
    """
    highest = {name: values["peak"] / max(found["factors"]) for name, values in found["rates"].items()}
    levels, layers = round_steps(0.0, max(highest.values()), most=5), found["layers"]
    left = max(level_room(levels, rate), NAME_ROOM if layers else 0.0)
    frame = Frame(left, 30, WIDTH - 8, HEIGHT - 40, 1, found["steps"], 0.0, max(highest.values()))
    lines, legend, x = [], [], left
    curve = thin([(float(step), factor) for step, factor in enumerate(found["factors"], 1)], most=MOST_POINTS)
    for (name, top), look in zip(highest.items(), ("first", "second"), strict=True):
        lines.append(path([(frame.x(step), frame.y(top * factor)) for step, factor in curve], f"line {look}"))
        legend += [path([(x, 12), (x + 16, 12)], f"line {look}"), words(name, x + 21, 16, class_="small")]
        x += 21 + text_width(name, SMALL) + 16
    axes = [*level_lines(frame, levels, rate), *step_axis(frame, most=6)]
    axes.append(words("step →", frame.right, frame.bottom + 34, class_="soft small", anchor="end"))
    said = ", ".join(f"{name}: highest {rate(values['peak'])}" for name, values in found["rates"].items())
    drawn, height = [card(MARGIN), *axes, *_marks(frame, found), *lines, *legend], HEIGHT
    if layers:
        below = frame._replace(top=HEIGHT + BETWEEN, bottom=HEIGHT + BETWEEN + panel_height(layers))
        drawn += [*layer_panel(layers, below), *_epochs(below, found)]
        height = below.bottom + 4
    return picture(WIDTH, height, "Learning rate over the steps", *drawn, description=said, margin=MARGIN) + "\n"


def _marks(frame: Frame, found: Mapping[str, Any]) -> list[str]:
    """Draw where the warm-up and the epochs end, and say it."""
    parts = _epochs(frame, found)
    for number in _ended(found):
        x = frame.x(number * found["steps_per_epoch"])
        if x < frame.right - LAST_WORD:
            parts.append(words(f"epoch {number}", x, frame.bottom + 34, class_="soft small", anchor="middle"))
    if 0 < found["warmup_steps"] < found["steps"]:
        x = frame.x(found["warmup_steps"] + 1)
        parts.append(path([(x, frame.top), (x, frame.bottom)], "axis dashed"))
        parts.append(words("end of the warm-up", x + 5, frame.bottom - 6, class_="soft small"))
    return parts


def _epochs(frame: Frame, found: Mapping[str, Any]) -> list[str]:
    """Draw where the epochs end, unless they are many."""
    ends = [frame.x(number * found["steps_per_epoch"]) for number in _ended(found)]
    return [path([(x, frame.top), (x, frame.bottom)], "grid") for x in ends]


def _ended(found: Mapping[str, Any]) -> range:
    """Return the numbers of the epochs that end before the run does; none where they are many."""
    numbers = range(1, -(-found["steps"] // found["steps_per_epoch"]))
    return numbers if len(numbers) < MOST_EPOCHS else range(0)
