"""What every tracker is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from luthier.core.tick import Tick


class Tracker(ABC):
    """Shows the stream of ticks somewhere besides the run folder.

    Args:
        folder: The run folder.
        project: Name of the project or experiment.
        recipe: The resolved recipe, as plain data.

    Raises:
        SetupError: if the package behind it is not installed.
    """

    registered_name: ClassVar[str]

    @abstractmethod
    def __init__(self, folder: Path, *, project: str, recipe: dict[str, Any]) -> None: ...

    @abstractmethod
    def tick(self, tick: Tick) -> None:
        """Show one step."""

    @abstractmethod
    def close(self) -> None:
        """Send what is left."""


def numbers(tick: Tick) -> dict[str, float]:
    """Return what a tracker plots of a tick, by name."""
    shown = {
        "train/loss": tick.loss,
        "train/grad_norm": tick.grad_norm,
        "train/learning_rate": tick.learning_rate,
        "train/tokens_per_second": tick.tokens_per_second,
        "train/epoch": tick.epoch,
    }
    for split, scores in (tick.scores or {}).items():
        shown |= {f"{split}/{name}": value for name, value in scores.items()}
    return shown
