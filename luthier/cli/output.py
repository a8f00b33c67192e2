"""Where a verb's words go: to a person on standard output, or, with --json, beside one object for a script."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

from luthier.core.files import finite


class Output:
    """The two channels of a verb.

    Args:
        as_json: Words go to standard error, and the last line of standard output is one JSON object.
        silent: Only errors are said, as by all but the first of several processes.
    """

    def __init__(self, *, as_json: bool, silent: bool = False) -> None:
        self.as_json, self.silent = as_json and not silent, silent
        self.console = Console(stderr=as_json, quiet=silent, highlight=False, soft_wrap=False)
        self.errors = Console(stderr=True, highlight=False)
        self._take_notices()

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """Show a line to the person."""
        self.console.print(escape(text), style=style, soft_wrap=True)

    def show(self, renderable: Any) -> None:
        """Show a table or another rich object to the person."""
        self.console.print(renderable)

    def words_aside(self) -> None:
        """Send words to standard error, because standard output carries the answers."""
        self.console = Console(stderr=True, highlight=False)
        self._take_notices()

    def finish(self, result: dict[str, Any] | None) -> None:
        """Print the verb's object, where it was asked for."""
        if self.as_json and result is not None:
            sys.stdout.write(json.dumps(finite(result), ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def _take_notices(self) -> None:
        logger = logging.getLogger("luthier")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [_Notices(self.console)]


class _Notices(logging.Handler):
    """Shows what the rooms say: notes plainly, warnings in yellow."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Show one notice."""
        text = escape(record.getMessage())
        if record.levelno >= logging.WARNING:
            self._console.print(f"[yellow]warning:[/] {text}")
        else:
            self._console.print(text)
