"""Processes that cost no imports: a zygote imports everything once, then forks a child per trial.

Importing torch, transformers and the rest takes three seconds; a fork takes some milliseconds. The zygote itself never trains, so that
children start from a clean process. What a training imports late is learnt from the first child that trains.

    children = zygote()
    pid = children.start("victims:train", [...], said=folder / "said.txt")
    os.kill(pid, signal.SIGKILL)
    assert children.wait(pid) == -signal.SIGKILL
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
PATIENCE_SECONDS = 120.0
SECONDS_BETWEEN_LOOKS = 0.0005
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
IMPORTED = (
    "torch",
    "transformers",
    "sklearn.linear_model",
    "luthier.cli.main",
    "luthier.stages.running.train",
    "luthier.stages.results.finish",
)


class Zygote:
    """A process that forks children on request, and waits for them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "forks.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT
        )
        self._imported: set[str] = set()
        self._learnt: set[str] = set()
        atexit.register(self.close)

    def start(self, call: str, *arguments: Any, said: Path) -> int:
        """Fork a child that calls a function; returns its process id, which stays taken until it is waited for.

        Args:
            call: `module:function`; what it returns is the exit code.
            arguments: Handed to the function; plain data.
            said: File that takes standard output and error, after what is there.
        """
        module = call.partition(":")[0]
        if module not in self._imported:
            self._ask({"import": [module]})
            self._imported.add(module)
        return int(self._ask({"start": call, "arguments": arguments, "said": str(said)}))

    def wait(self, pid: int, seconds: float = PATIENCE_SECONDS) -> int | None:
        """Return the exit code of a child (minus the signal that killed it), or None if it runs for longer."""
        return self._ask({"wait": pid, "seconds": seconds})

    def run(self, call: str, *arguments: Any, said: Path) -> int:
        """Fork a child, wait for its end and return its exit code; what the first child of a call imports, the zygote imports too."""
        names = said.with_suffix(".modules")
        first = call not in self._learnt
        pid = self.start("forks:note_modules", str(names), call, arguments, said=said) if first else self.start(call, *arguments, said=said)
        code = self.wait(pid)
        assert code is not None, f"{call} runs for more than {PATIENCE_SECONDS:.0f} s: {said.read_text()[-2000:]}"
        if first and names.exists():
            self._ask({"import": names.read_text().split()})
            self._learnt.add(call)
            names.unlink()
        return code

    def close(self) -> None:
        """End the zygote."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the zygote has ended"
        return json.loads(answer)


@cache
def zygote() -> Zygote:
    """The zygote of this test process, started at the first call."""
    return Zygote()


def note_modules(names: str, call: str, arguments: list[Any]) -> int:
    """Run a call and write down what is imported then."""
    code = _function(call)(*arguments)
    Path(names).write_text("\n".join(name for name in sys.modules if name.partition(".")[0] not in ("__main__", "__mp_main__")))
    return code


def _function(call: str) -> Callable[..., int]:
    module, _, name = call.partition(":")
    return getattr(importlib.import_module(module), name)


def _serve() -> None:
    """Answer requests until standard input ends."""
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "training")]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import(IMPORTED)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = _fork(request)
        elif "wait" in request:
            answer = _wait(request["wait"], request["seconds"])
        else:
            answer = _import(request["import"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _import(names: Any) -> int:
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return len(names)


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(request)
    return pid


def _become(request: dict[str, Any]) -> NoReturn:
    """Turn a fresh fork into the child that was asked for; never returns."""
    code = 1
    try:
        os.setsid()
        said = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(source, target)
        code = _function(request["start"])(*request["arguments"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(SECONDS_BETWEEN_LOOKS)


if __name__ == "__main__":
    _serve()
