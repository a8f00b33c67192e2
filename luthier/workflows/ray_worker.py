"""What each worker of Ray Train does: the same training as anywhere, going on with the run folder after a worker was lost."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import LuthierError, ProcessLost, SetupError
from luthier.core.tick import Tick
from luthier.version import __version__
from luthier.workflows.ray_post import Told


@dataclass(frozen=True)
class Job:
    """What every worker is handed.

    Args:
        recipe: The recipe, resolved whole; None to go on with a run as it began.
        output: The run folder.
        again: Whether to go on with the run that is in the folder.
        code: Path and text of each file named with --code.
        folder: Working folder of the command.
        sign: A file beside the run folder that every machine must see.
        started: When the command began, in seconds since the epoch.
        version: Version of Luthier that the command runs.
    """

    recipe: dict[str, Any] | None
    output: str
    again: bool
    code: tuple[tuple[str, str], ...]
    folder: str
    sign: str
    started: float
    version: str = __version__


def work(config: dict[str, Any]) -> None:
    """Train in one worker; Ray starts again what raises, so an error that would only come again is told and not raised.

    Args:
        config: `job`, a Job, and `post`, the actor that takes what is said.
    """
    import ray

    try:
        _train(config["job"], config["post"])
    except ProcessLost:
        raise
    except LuthierError as error:
        ray.get(config["post"].end.remote(Told.of(error)))


def _train(job: Job, post: Any) -> None:
    import ray
    import ray.train

    settle(job)
    writes = ray.train.get_context().get_world_rank() == 0
    if writes:
        _speak_through(post)
    from luthier.flow import Training

    if job.recipe is None:
        training = Training.again(job.output, started=job.started)
    else:
        again = job.again or ray.get(post.has_begun.remote())
        training = Training.begin(job.recipe, started=job.started, again=again)
    if writes:
        ray.get(post.begun.remote())
    for tick in training:
        if writes:
            post.tick.remote(tick)
        if tick.scores:
            ray.train.report(_reported(tick))  # by all workers, and a second or two each: so not at every step
    if training.metrics is not None:
        ray.get(post.done.remote(training.metrics))


def settle(job: Job) -> None:
    """Stand where the command stands, with the same code."""
    machine = f"the machine {platform.node()}"
    if job.version != __version__:
        raise SetupError(f"{machine} has luthier {__version__}, the command is luthier {job.version}", fix="install the same everywhere")
    if not Path(job.sign).is_file():
        raise SetupError(
            f"{machine} does not see the folder of the run",
            where=str(Path(job.sign).parent),
            fix="give --output a folder that all machines mount at the same path",
        )
    if Path(job.folder).is_dir():
        os.chdir(job.folder)
    from luthier.core.registry import load_user_file

    for path, text in job.code:
        load_user_file(_as_here(Path(path), text))


def _as_here(path: Path, text: str) -> Path:
    """Return where a file stands on this machine: in its own place, or in a temporary folder that it is copied to."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return path
    except (OSError, UnicodeDecodeError):
        pass
    copy = Path(tempfile.mkdtemp(prefix="luthier-code-")) / path.name
    copy.write_text(text, encoding="utf-8")
    return copy


def _speak_through(post: Any) -> None:
    """Send notices of this process to the command line, and hear when it wants the run to stop."""
    logger = logging.getLogger("luthier")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_Notices(post)]
    threading.Thread(target=_hear, args=(post,), daemon=True).start()


def _hear(post: Any) -> None:
    import ray

    from luthier.training.signals import ask_to_stop

    post.answer.remote(ask_to_stop(ray.get(post.asked_to_stop.remote())))


class _Notices(logging.Handler):
    """Sends what the rooms say to the command line."""

    def __init__(self, post: Any) -> None:
        super().__init__()
        self._post = post

    def emit(self, record: logging.LogRecord) -> None:
        """Send one notice."""
        self._post.notice.remote(record.levelno, record.getMessage())


def _reported(tick: Tick) -> dict[str, float]:
    scores = {f"{split}_{name}": value for split, found in (tick.scores or {}).items() for name, value in found.items()}
    return {"step": tick.step, "epoch": tick.epoch, "loss": tick.loss, **scores}
