"""The trackers of a run; one that fails is left out, and the run goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from luthier.core.errors import LuthierError
from luthier.core.tick import Tick
from luthier.recipe import Recipe
from luthier.training.trackers import trackers
from luthier.training.trackers.tracker import Tracker

log = logging.getLogger("luthier")


class Shown:
    """Every tracker of a recipe.

    Args:
        recipe: Names the trackers and their project.
        folder: The run folder, or None to show nothing.
    """

    def __init__(self, recipe: Recipe, folder: Path | None) -> None:
        names = recipe.track.trackers if folder is not None else ()
        plain = recipe.as_dict()
        self._trackers: list[Tracker] = [trackers.get(name)(folder, project=recipe.track.project, recipe=plain) for name in names]

    def tick(self, tick: Tick) -> None:
        """Show one step."""
        for tracker in list(self._trackers):
            self._try(tracker, lambda tracker=tracker: tracker.tick(tick))

    def close(self) -> None:
        """Send what is left."""
        for tracker in list(self._trackers):
            self._try(tracker, tracker.close)

    def _try(self, tracker: Tracker, show: Any) -> None:
        try:
            show()
        except LuthierError:
            raise
        except Exception as error:  # whatever an outside package raises, it must not cost the run
            self._trackers.remove(tracker)
            log.warning("the tracker %s is left out from here on: %s", tracker.registered_name, error)
