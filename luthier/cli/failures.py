"""Every way out of a verb that is not success: a message that says what to change, and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback

from rich.markup import escape

from luthier.cli.output import Output
from luthier.core.errors import STOP_CODES, LuthierError, ProcessLost, RunStopped, is_out_of_memory
from luthier.core.files import is_disk_full
from luthier.workflows.launch import LAUNCHED, PEER_LOST, Ended


def report(error: BaseException, output: Output) -> int:
    """Say what went wrong and return the exit code.

    Args:
        error: What ended the verb.
        output: Where to say it.
    """
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, KeyboardInterrupt):
        return _say("stopped", STOP_CODES[signal.SIGINT], output)
    known = _as_known(error)
    if isinstance(known, Ended):
        if known.said is not None:
            output.finish({"error": known.said.strip(), "exit_code": known.exit_code})
        return known.exit_code
    if isinstance(known, ProcessLost) and LAUNCHED in os.environ:
        return PEER_LOST
    if known is not None:
        return _say(str(known), known.exit_code, output)
    traceback.print_exception(error)
    return _say("this is a fault of ours, not yours: please report the lines above with `luthier env`", 1, output)


def _as_known(error: BaseException) -> LuthierError | None:
    if isinstance(error, LuthierError):
        return error
    if is_out_of_memory(error):
        return RunStopped(
            "the machine ran out of memory", fix="use a smaller training.batch_size (and gradient_accumulation_steps to make up for it)"
        )
    if is_disk_full(error):
        return RunStopped("the disk is full", where=getattr(error, "filename", None), fix="free some space, then run the command again")
    return None


def _say(message: str, code: int, output: Output) -> int:
    if code in STOP_CODES.values() and output.silent:
        return code  # the first process says it for all
    output.errors.print(
        f"[bold red]error:[/] {escape(message)}" if code not in STOP_CODES.values() else f"[yellow]{escape(message)}[/]", soft_wrap=True
    )
    output.finish({"error": message, "exit_code": code})
    return code
