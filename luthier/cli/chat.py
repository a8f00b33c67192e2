"""`luthier chat`: speak with a run that writes, line by line; its answers come as they are written."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from luthier.cli.arguments import add_code_flag, add_manner_flags, load_code, manner_of, new_parser
from luthier.cli.output import Output

EPILOG = """\
In the conversation:
  /reset          forget what was said
  /system TEXT    forget it, and let the system say this from now on
  /save FILE      write the conversation as messages (.json)
  /exit           leave; so does Ctrl-D
Ctrl-C stops an answer, not the program. A line of a file or a pipe is answered like one that is typed:
  printf 'Hello\\nAnd in French?\\n' | luthier chat runs/instructions-001 --json"""
COMMANDS = ("/reset", "/system", "/save", "/exit")


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("chat", "Speak with a run that writes; the history is kept.", epilog=EPILOG)
    made.add_argument("run", metavar="RUN", help="a run folder, a model folder or a hub id")
    made.add_argument("--system", metavar="TEXT", help="what the system says first")
    made.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="fp32", help="arithmetic; fp32 is what the run was measured in"
    )
    made.add_argument("--seed", metavar="N", type=int, help="seed of answers that are drawn; none: another one each time")
    add_manner_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any] | None:
    """Answer lines until there are no more."""
    load_code(parsed.code)
    output.words_aside()
    from luthier.serve.chat import Chat
    from luthier.serve.predictor import Predictor

    predictor = Predictor.open(parsed.run, precision=parsed.precision)
    manner = manner_of(parsed)
    chat = Chat(predictor.writing(**manner) if manner else predictor)
    if parsed.seed is not None:
        import torch

        torch.manual_seed(parsed.seed)
    chat.reset(parsed.system)
    if not chat.remembers:
        output.say("this run was not trained on conversations: each line is answered by itself", style="yellow")
    elif sys.stdin.isatty():
        output.say("type, and press Enter; /exit or Ctrl-D leaves, Ctrl-C stops an answer")
    with _interruptible(chat):
        _speak(chat, output, as_json=parsed.json)
    return None


def _speak(chat: Any, output: Output, *, as_json: bool) -> None:
    forgotten = 0
    for line in _lines():
        if line.startswith("/"):
            if _obey(chat, line, output):
                return
            continue
        for piece in chat.answer(line):
            if not as_json:
                sys.stdout.write(piece)
                sys.stdout.flush()
        said = chat.last
        if as_json:
            shown = {"text": line, "answer": said.text, "tokens": said.num_tokens, "ended": said.ended, "seconds": round(said.seconds, 3)}
            sys.stdout.write(json.dumps(shown | {"forgotten_turns": said.forgotten}, ensure_ascii=False))
        sys.stdout.write("\n")
        sys.stdout.flush()
        if said.forgotten > forgotten:
            output.say(f"longer than the model's context: the {said.forgotten} oldest turns are left out", style="yellow")
        if said.cut:
            output.say(f"longer than the model's context: the first {said.cut} tokens are left out", style="yellow")
        forgotten = said.forgotten


def _obey(chat: Any, line: str, output: Output) -> bool:
    """Do what a command says; returns whether to leave."""
    from luthier.core import files

    command, _, rest = line.partition(" ")
    rest = rest.strip()
    if command == "/exit":
        return True
    if command == "/reset" or (command == "/system" and rest):
        chat.reset(rest if command == "/system" else None)
        output.say("a new conversation begins")
    elif command == "/save" and rest:
        try:
            files.write_json(Path(rest).expanduser(), {"messages": chat.turns})
            output.say(f"saved as {rest}")
        except OSError as error:
            output.say(f"not saved: {error}", style="yellow")
    else:
        output.say(f"{line!r} is no command; there are {', '.join(COMMANDS)} (/system and /save take a word more)", style="yellow")
    return False


def _lines() -> Iterator[str]:
    """Yield what is said, a line each; empty lines say nothing."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  (lets lines be edited and called back)

    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            continue
        if line:
            yield line


@contextmanager
def _interruptible(chat: Any) -> Iterator[None]:
    """Within the context, Ctrl-C ends an answer that is being written, and otherwise raises KeyboardInterrupt."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        if not chat.answering:
            raise KeyboardInterrupt
        chat.stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
