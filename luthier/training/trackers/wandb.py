"""Weights & Biases, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import SetupError
from luthier.core.tick import Tick
from luthier.training.trackers import trackers
from luthier.training.trackers.tracker import Tracker, numbers


@trackers.add
class WandB(Tracker):
    """Logs to the account or the offline mode that wandb's own settings name."""

    def __init__(self, folder: Path, *, project: str, recipe: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise SetupError("wandb is not installed", where="track.trackers", fix="pip install 'luthier[wandb]'") from None
        self._run = wandb.init(project=project, name=folder.name, dir=str(folder), config=recipe)

    def tick(self, tick: Tick) -> None:
        """Log the numbers of one step."""
        self._run.log(numbers(tick), step=tick.step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()
