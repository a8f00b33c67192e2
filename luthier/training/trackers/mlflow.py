"""MLflow, where it is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luthier.core.errors import SetupError
from luthier.core.tick import Tick
from luthier.training.trackers import trackers
from luthier.training.trackers.tracker import Tracker, numbers


@trackers.add
class MLflow(Tracker):
    """Logs to the tracking server that MLflow's own settings name; without any, to a database in the run folder."""

    def __init__(self, folder: Path, *, project: str, recipe: dict[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow
        except ImportError:
            raise SetupError("MLflow is not installed", where="track.trackers", fix="pip install 'luthier[mlflow]'") from None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        self._mlflow = mlflow
        mlflow.set_experiment(project)
        mlflow.start_run(run_name=folder.name)
        mlflow.log_dict(recipe, "recipe.json")

    def tick(self, tick: Tick) -> None:
        """Log the numbers of one step."""
        self._mlflow.log_metrics({name: float(value) for name, value in numbers(tick).items()}, step=tick.step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()
