"""The run folder: what every verb leaves, and the only thing the next verb needs."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from luthier.core import files, yaml
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.names import did_you_mean

LOCK = ".lock"


class RunFolder:
    """Where each file of a run stands.

    Args:
        path: The folder; need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.data = self.path / "data.json"
        self.quarantine = self.path / "quarantine.jsonl"
        self.reference = self.path / "reference.jsonl"
        self.events = self.path / "events.jsonl"
        self.ledger = self.path / "ledger.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.metrics = self.path / "metrics.json"
        self.evaluation = self.path / "evaluation.json"
        self.confusion = self.path / "confusion.svg"
        self.card = self.path / "card.md"
        self.report = self.path / "report.html"
        self.tasks = self.path / "tasks"
        self._lock: int | None = None

    @classmethod
    def create(cls, path: str | Path, *, recipe: dict[str, Any], environment: dict[str, Any]) -> RunFolder:
        """Make a new run folder, which appears by rename with `recipe.yaml` inside.

        Raises:
            ConfigError: if the folder exists and is not empty.
        """
        run = cls(path)
        run.require_free()
        if run.path.exists():
            run.path.rmdir()

        def fill(folder: Path) -> None:
            (folder / "recipe.yaml").write_text(yaml.dump(recipe), encoding="utf-8")
            (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")

        files.make_folder(run.path, fill)
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            SetupError: if there is none, or it was left half written.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise SetupError(f"no run folder at '{run.path}'", fix="list the runs here with: luthier runs")
        if not run.recipe.is_file():
            raise SetupError(
                f"'{run.path}' is not a run folder: it has no recipe.yaml",
                fix="name the folder that `luthier train` printed, or list them with: luthier runs",
            )
        return run

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks of a finished run that has several, in the order of its recipe."""
        if not (self.tasks.is_dir() and self.recipe.is_file()):
            return []
        names = [entry["name"] for entry in yaml.load_file(self.recipe).get("tasks") or ()]
        return [name for name in names if (self.tasks / name).is_dir()]

    def of_task(self, name: str) -> RunFolder:
        """Return the folder of one of the run's tasks, which is like that of a run with this task alone.

        Raises:
            ConfigError: if the run has no such task.
        """
        known = self.task_names
        if name not in known:
            what = f"the run '{self.path}' has no task '{name}'" if known else f"the run '{self.path}' has one task, which has no name"
            raise ConfigError([Fault("--as", what, did_you_mean(name, known) if known else "leave --as out")])
        return RunFolder(self.tasks / name)

    def require_one_task(self) -> None:
        """Raise ConfigError, with the names to choose from, if the run has several tasks."""
        known = self.task_names
        if known:
            fix = f"name one of {', '.join(known)}: --as {known[0]}; each is a run too, such as {self.tasks / known[0]}"
            raise ConfigError([Fault("--as", f"the run '{self.path}' has several tasks", fix)])

    @property
    def finished(self) -> bool:
        """Whether training and evaluation ended: the scores and the model are there."""
        return self.metrics.is_file() and self.model.is_dir()

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: the pages, which are written last, are there too."""
        return self.finished and self.report.is_file() and self.card.is_file()

    def take(self) -> None:
        """Take the folder for this process until `leave`, or its end; on a file system without locks nothing is done.

        Raises:
            SetupError: if another process is at work in it.
        """
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.leave()
            raise SetupError(
                f"another process is at work in the run '{self.path}'",
                fix="wait for it, or stop it (SIGTERM saves); a copy of the folder can be resumed at any time",
            ) from error
        except OSError:
            pass

    def leave(self) -> None:
        """Let other processes take the folder again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def require_free(self) -> None:
        """Raise ConfigError, with the command that goes on, if the folder exists and is not empty."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            fix = f"name another folder with --output, or go on with it: luthier train --resume {self.path}"
            raise ConfigError([Fault("output", f"'{self.path}' exists and is not empty", fix)])

    def require_finished(self) -> None:
        """Raise SetupError, with the command that goes on, unless the run is finished."""
        if not self.finished:
            missing = "model/" if not self.model.is_dir() else "metrics.json"
            raise SetupError(
                f"the run '{self.path}' is half written: it has no {missing}",
                fix=f"finish it with: luthier train --resume {self.path}",
            )
