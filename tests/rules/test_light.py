"""The command line answers at once: nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import pytest
from house import PACKAGE, ROOT

HEAVY = {"torch", "transformers", "tokenizers", "peft", "datasets", "pyarrow", "pandas", "pydantic", "numpy", "scipy", "sklearn", "rich"}
HEAVY |= {"jinja2"}
LIGHT = {
    "import luthier": ["-c", "import luthier"],
    "luthier --help": ["-m", "luthier", "--help"],
    "luthier version": ["-m", "luthier", "version"],
    "luthier --version": ["-m", "luthier", "--version"],
}
MOST_EXTRA_SECONDS = 0.12  # over bare Python, which takes some 0.02 s: 0.15 s in all
RUNS = 5
needs_command_line = pytest.mark.skipif(not (PACKAGE / "cli" / "main.py").is_file(), reason="luthier/cli/main.py is not written yet")


def imported_by(arguments: list[str]) -> set[str]:
    """Top-level packages that a Python process imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, cwd=ROOT, check=True)
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in times}


def processor_seconds(arguments: list[str]) -> float:
    """Processor time of a process: what it takes on an idle machine, however busy this one is."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@needs_command_line
@pytest.mark.parametrize("command", LIGHT)
def test_nothing_heavy_is_imported(command: str) -> None:
    imported = imported_by(LIGHT[command])
    assert "luthier" in imported, "the measurement saw nothing"
    assert not imported & HEAVY, f"{command} imports {sorted(imported & HEAVY)}; import them inside the function that needs them"


def test_the_measurement_sees_heavy_imports() -> None:
    assert "numpy" in imported_by(["-c", "import numpy"])


@needs_command_line
@pytest.mark.parametrize("command", ["luthier --help", "luthier version"])
def test_the_command_line_answers_at_once(command: str) -> None:
    processor_seconds(LIGHT[command])
    extra = [processor_seconds(LIGHT[command]) - processor_seconds(["-c", "pass"]) for _ in range(RUNS)]
    assert statistics.median(extra) <= MOST_EXTRA_SECONDS
