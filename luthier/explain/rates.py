"""The learning rate of a run, and the change that scales it."""

from __future__ import annotations

from luthier.explain.curves import series
from luthier.explain.story import Story
from luthier.explain.wording import rate


def current_rate(story: Story) -> float:
    """Return the rate the recipe gives, else the highest that was used; 0 where neither is known."""
    given = story.setting("optim.learning_rate")
    if isinstance(given, (int, float)):
        return float(given)
    return max((value for _, value in series(story.ticks, "learning_rate")), default=0.0)


def scaled_rate(story: Story, factor: float, hint: str) -> tuple[str | None, str]:
    """Return the change that multiplies the rate, and that of the head with it, and how it compares with now."""
    current, head = current_rate(story), story.setting("optim.head_learning_rate")
    if current <= 0:
        return None, ""
    change = f"optim.learning_rate={rate(current * factor)}"
    if isinstance(head, (int, float)):
        return f"{change} optim.head_learning_rate={rate(head * factor)}", f"both {hint}"
    return change, hint
