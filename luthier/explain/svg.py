"""Drawing: SVG as text, scales, and words that fit. Colours are classes, so that a page can be light or dark."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from typing import NamedTuple

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
FONT_SIZE = 12.0

# What the page and a picture that stands alone have in common; each gives the variables their colours.
STYLE = """
svg { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", sans-serif }
svg text { fill: var(--ink) }
svg .soft { fill: var(--soft) }
svg .small { font-size: 10.5px }
svg .strong { fill: var(--on-fill) } svg .medium { fill: var(--on-medium) }
svg .bold { font-weight: 600 }
svg .grid { stroke: var(--line); stroke-width: 1; fill: none }
svg .axis { stroke: var(--soft); stroke-width: 1; fill: none }
svg .dashed { stroke-dasharray: 4 4 }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
svg .faint { stroke-width: 1; opacity: .32 }
svg .first { stroke: var(--accent) } svg .second { stroke: var(--second) } svg .third { stroke: var(--right) }
svg .first-fill { fill: var(--accent) } svg .second-fill { fill: var(--second) } svg .third-fill { fill: var(--right) }
svg .muted { stroke: var(--soft) } svg .muted-fill { fill: var(--soft) }
svg .right { fill: var(--right) } svg .wrong { fill: var(--wrong) }
svg .wrong-line { stroke: var(--wrong); stroke-width: 2 }
svg .cell { fill: var(--cell) }
"""

LIGHT = {
    "paper": "#faf8f4",
    "card": "#ffffff",
    "ink": "#221d17",
    "soft": "#675d51",
    "line": "#e6dfd4",
    "accent": "#8f4210",
    "second": "#2f62a3",
    "right": "#1d7567",
    "wrong": "#b5401a",
    "on-fill": "#ffffff",
    "on-medium": "#221d17",
    "cell": "#f5f1ea",
}
DARK = {
    "paper": "#161310",
    "card": "#1f1b17",
    "ink": "#f0eae1",
    "soft": "#b3a899",
    "line": "#39332c",
    "accent": "#e8a26c",
    "second": "#8db5ee",
    "right": "#5cbcab",
    "wrong": "#f08f68",
    "on-fill": "#161310",
    "on-medium": "#161310",
    "cell": "#272219",
}


def tag(name: str, *children: str, **attributes: object) -> str:
    """Write an element. Attributes: `class_` is class, `_` is a hyphen, numbers lose needless digits; children are not escaped."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    inner = "".join(children)
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def words(text: str, x: float, y: float, *, class_: str | None = None, anchor: str | None = None, transform: str | None = None) -> str:
    """Write text at a place; `anchor` is start, middle or end."""
    return tag("text", escape(text), x=x, y=y, class_=class_, text_anchor=anchor, transform=transform)


def picture(width: float, height: float, title: str, *parts: str, description: str = "", margin: float = 0.0) -> str:
    """Write a whole SVG that scales to its place, named for those who do not see it.

    Args:
        width: Width in the picture's own units; with a margin also its width in pixels.
        height: Height in the same units.
        title: Short name.
        parts: What is drawn.
        description: What it shows, in a sentence.
        margin: Empty space on each side, for a picture that stands alone.
    """
    inner = (tag("title", escape(title)), tag("desc", escape(description)) if description else "", *parts)
    wide, high = width + 2 * margin, height + 2 * margin
    box = " ".join(_value(float(edge)) for edge in (-margin, -margin, wide, high))
    pixels = {"width": round(wide), "height": round(high)} if margin else {}
    return tag("svg", *inner, xmlns="http://www.w3.org/2000/svg", viewBox=box, role="img", aria_label=title, **pixels)


def card(margin: float) -> str:
    """Write what a picture that stands alone begins with: its light colours, and a background that covers its margin."""
    style = STYLE
    for name, colour in LIGHT.items():
        style = style.replace(f"var(--{name})", colour)
    return tag("style", style) + tag("rect", x=-margin, y=-margin, width="100%", height="100%", fill=LIGHT["card"])


def path(points: list[tuple[float, float]], class_: str) -> str:
    """Write a line through points that are in the picture's own units."""
    return tag("path", d="M" + "L".join(f"{_value(x)},{_value(y)}" for x, y in points), class_=class_)


def escape(text: object) -> str:
    """Make text safe within XML: marks escaped, characters that XML does not allow left out."""
    return html.escape(NOT_XML.sub("", str(text)))


def text_width(text: str, font_size: float = FONT_SIZE) -> float:
    """Estimate how wide a text is drawn; a Chinese character takes twice a Latin one."""
    return sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.56 for letter in text) * font_size


def fit(text: str, width: float, font_size: float = FONT_SIZE) -> str:
    """Cut a text so that it is drawn within `width`."""
    if text_width(text, font_size) <= width:
        return text
    while text and text_width(text + "…", font_size) > width:
        text = text[:-1]
    return text.rstrip(" _-") + "…"


def round_steps(low: float, high: float, *, most: int = 5) -> list[float]:
    """Return round numbers that divide a range, at most `most` + 1 of them within it."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * index, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


class Frame(NamedTuple):
    """The field of a chart: where it stands in the picture, and which values its edges mean."""

    left: float
    top: float
    right: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float = 0.0
    y_high: float = 1.0

    def x(self, value: float) -> float:
        """Return where a value stands across; values outside stand at the edge."""
        return self.left + (self.right - self.left) * _share(value, self.x_low, self.x_high)

    def y(self, value: float) -> float:
        """Return where a value stands upwards; values outside stand at the edge."""
        return self.bottom - (self.bottom - self.top) * _share(value, self.y_low, self.y_high)


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(value)
