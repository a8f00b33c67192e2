"""`--processes`: how processes are started and ended together, with small programs in their place."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.cli.failures import report
from luthier.cli.output import Output
from luthier.core.errors import Interrupted, RunStopped
from luthier.core.machine import available_cores
from luthier.workflows import launch

BEGIN = "import os, signal, sys, time; rank = int(os.environ['RANK']);"
HERE = Path(__file__).parents[2]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process runs the text that stands where `train` and its words would."""
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c"))
    monkeypatch.setattr(launch, "SECONDS_TO_FOLLOW", 1.0)


def children() -> set[int]:
    """Processes that this one started and that are not waited for."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


@pytest.mark.usefixtures("programs")
def test_the_one_that_fails_is_shown_and_the_rest_is_killed(capfd: pytest.CaptureFixture[str]) -> None:
    before, started = children(), time.monotonic()
    with pytest.raises(launch.Ended) as ended:
        launch.launch([BEGIN + "rank != 1 and time.sleep(60); sys.exit('my own error')"], 3)
    assert time.monotonic() - started < 15
    assert ended.value.exit_code == 1 and ended.value.said == "my own error\n"
    assert capfd.readouterr().err == "my own error\n"
    assert children() == before, "no process stays, not even as a zombie"


@pytest.mark.usefixtures("programs")
def test_those_that_only_lost_another_are_not_the_cause(capfd: pytest.CaptureFixture[str]) -> None:
    text = BEGIN + f"rank != 2 and sys.exit({launch.PEER_LOST}); time.sleep(0.5); sys.stderr.write('the cause'); sys.exit(3)"
    with pytest.raises(launch.Ended) as ended:
        launch.launch([text], 3)
    assert (ended.value.exit_code, capfd.readouterr().err) == (3, "the cause")
    with pytest.raises(RunStopped, match="lost the connection to another process, and none says why"):
        launch.launch([f"import sys; sys.exit({launch.PEER_LOST})"], 2)


@pytest.mark.usefixtures("programs")
def test_what_all_say_is_shown_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(launch.Ended) as ended:
        launch.launch([BEGIN + "time.sleep(0.4 * (rank == 0)); sys.stderr.write('diverged'); sys.exit(3)"], 2)
    assert (ended.value.exit_code, ended.value.said, capfd.readouterr().err) == (3, None, "diverged")


@pytest.mark.usefixtures("programs")
def test_a_killed_process_is_named() -> None:
    with pytest.raises(RunStopped, match="process 1 was killed by SIGKILL; the others were stopped") as stopped:
        launch.launch([BEGIN + "os.kill(os.getpid(), 9) if rank == 1 else time.sleep(60)"], 2)
    assert "luthier train --resume" in str(stopped.value)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_go_on_to_all(number: int, tmp_path: Path) -> None:
    signal.signal(number, signal.default_int_handler)  # what starts in the background ignores Ctrl-C
    text = BEGIN + (
        f"signal.signal({int(number)}, lambda *_: (open(r'{tmp_path}/' + str(rank), 'w').close(), sys.exit({128 + number})));"
        f"rank == 0 and (time.sleep(0.5), os.kill(os.getppid(), {int(number)})); time.sleep(60)"
    )
    with pytest.raises(launch.Ended) as ended:
        launch.launch([text], 2)
    assert ended.value.exit_code == 128 + number and {file.name for file in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.usefixtures("programs")
def test_a_signal_before_the_processes_are_ready_is_no_fault_of_theirs() -> None:
    with pytest.raises(Interrupted) as interrupted:
        launch.launch([BEGIN + "signal.signal(15, signal.SIG_DFL); rank == 0 and os.kill(os.getppid(), 15); time.sleep(60)"], 2)
    assert interrupted.value.exit_code == 143


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("more", [0, 1])
def test_more_processes_than_cores_are_warned_of_once(more: int, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("luthier").propagate = True
    with caplog.at_level(logging.WARNING, logger="luthier"):
        launch.launch(["pass"], available_cores() + more)
    assert [record.getMessage() for record in caplog.records] == more * [
        f"{available_cores() + 1} processes share {available_cores()} cores: expect them to be slower than {available_cores()}"
    ]


@pytest.mark.parametrize(("said", "lines"), [("process 1 failed\n", 1), (None, 0)])
def test_the_object_of_json_comes_exactly_once(said: str | None, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Process 0 prints it itself; for another, the launcher does."""
    assert report(launch.Ended(3, said), Output(as_json=True)) == 3
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == lines * [{"error": "process 1 failed", "exit_code": 3}]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_processes_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "said"
    child = (
        "import pathlib, signal, time; from luthier.workflows.launch import follow_launcher;"
        f"signal.signal(15, lambda *_: (pathlib.Path(r'{said}').write_text('SIGTERM'), exit(0))); follow_launcher();"
        f"pathlib.Path(r'{said}').write_text('ready'); time.sleep(60)"
    )
    parent = f"from luthier.workflows import launch; import sys; launch.COMMAND = (sys.executable, '-c'); launch.launch([{child!r}], 1)"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=HERE)
    _until(lambda: said.exists() and said.read_text() == "ready")
    process.kill()
    process.wait()
    _until(lambda: said.read_text() == "SIGTERM")


def _until(happened: object) -> None:
    deadline = time.monotonic() + 20
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
