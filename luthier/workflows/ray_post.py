"""What the command line and the workers of a run on Ray tell each other: ticks and notices one way, a wish to stop the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from luthier.core.errors import Interrupted, LuthierError, RunStopped, UserError
from luthier.core.tick import Tick

SECONDS_TO_ANSWER = 5.0


@dataclass(frozen=True)
class Told:
    """An error as plain words, because an exception with arguments of its own does not travel.

    Args:
        what: What was got and what was wanted.
        where: The file, row, key or option concerned.
        fix: What to change.
        exit_code: Exit code of the command.
    """

    what: str
    where: str | None
    fix: str | None
    exit_code: int

    @classmethod
    def of(cls, error: LuthierError) -> Told:
        """Return the words of an error."""
        return cls(error.what, error.where, error.fix, error.exit_code)

    def as_error(self) -> LuthierError:
        """Return the error, ready to be raised."""
        if self.exit_code == UserError.exit_code:
            return UserError(self.what, where=self.where, fix=self.fix)
        if self.exit_code == RunStopped.exit_code:
            return RunStopped(self.what, where=self.where, fix=self.fix)
        return Interrupted(self.what, exit_code=self.exit_code, fix=self.fix)


@dataclass
class News:
    """What the workers said since the last look.

    Args:
        ticks: Steps, in their order.
        notices: Level and text of what process 0 logged.
        error: What ended the run for good.
        metrics: The object of metrics.json, at the end of a run.
    """

    ticks: list[Tick] = field(default_factory=list)
    notices: list[tuple[int, str]] = field(default_factory=list)
    error: Told | None = None
    metrics: dict[str, Any] | None = None


class Post:
    """An actor of Ray on the machine of the command line; it outlives workers that are lost."""

    def __init__(self) -> None:
        self._news = News()
        self._begun = False
        self._number = 0
        self._is_saving = False
        self._asked, self._answered = asyncio.Event(), asyncio.Event()

    async def begun(self) -> None:
        """Take note that the run folder is there, so that a later attempt goes on with it."""
        self._begun = True

    async def has_begun(self) -> bool:
        """Whether an earlier attempt made the run folder."""
        return self._begun

    async def tick(self, tick: Tick) -> None:
        """Take a step."""
        self._news.ticks.append(tick)

    async def notice(self, level: int, text: str) -> None:
        """Take a line for the person."""
        self._news.notices.append((level, text))

    async def end(self, error: Told) -> None:
        """Take what ended the run for good; the first one counts."""
        self._news.error = self._news.error or error

    async def done(self, metrics: dict[str, Any]) -> None:
        """Take the result of the run."""
        self._news.metrics = metrics

    async def news(self) -> News:
        """Return what came since the last call."""
        found, self._news = self._news, News()
        return found

    async def ask_to_stop(self, number: int) -> bool:
        """Ask the run to stop as a signal would; returns whether there is a loop that will save its state first."""
        self._number = number
        self._asked.set()
        try:
            await asyncio.wait_for(self._answered.wait(), SECONDS_TO_ANSWER)
        except TimeoutError:
            return False
        return self._is_saving

    async def asked_to_stop(self) -> int:
        """Wait until somebody asks the run to stop; returns the number of the signal."""
        await self._asked.wait()
        return self._number

    async def answer(self, is_saving: bool) -> None:
        """Take the answer of process 0 to the wish to stop."""
        self._is_saving = is_saving
        self._answered.set()
