"""A machine that others keep busy is noticed and said once; an idle one, a short look and a single thread are not."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.training.speed import crowding
from luthier.training.speed.crowding import Crowd, Reading


def readings(own: float, others: list[float], seconds: float = 6.0) -> Iterator[Reading]:
    """Clocks of a machine on which we use so many cores, and other processes so many in each interval."""
    clock = busy = mine = 0.0
    yield Reading(clock, busy, mine)
    for of_others in others:
        clock, busy, mine = clock + seconds, busy + seconds * (own + of_others), mine + seconds * own
        yield Reading(clock, busy, mine)


def crowd(own: float, others: list[float], *, threads: int = 2, cores: int = 2, seconds: float = 6.0) -> Crowd:
    found = readings(own, others, seconds)
    return Crowd(threads, cores=cores, look=lambda: next(found))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "luthier")
    return caplog


def test_a_busy_machine_is_said_at_the_start(said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    crowd(1.0, [0.97]).begin()
    assert "other processes use 1.0 of its 2 cores, and 2 threads wait for each other" in said.text
    assert "training.threads=1" in said.text and "OMP_WAIT_POLICY=passive" in said.text and len(said.records) == 1


def test_where_waiting_is_limited_already_that_is_not_advised(said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    crowd(1.0, [1.5]).begin()
    assert "wait for them" in said.text and "OMP_WAIT_POLICY" not in said.text and "threads=1" not in said.text


def test_a_machine_that_becomes_busy_is_said_once_with_what_it_costs(said: pytest.LogCaptureFixture) -> None:
    watched = crowd(1.2, [0.0, 0.0, 0.9, 1.1, 1.1, 1.1, 1.1])
    watched.begin()
    for seconds in (6.0, 24.0, 24.0, 24.0, 24.0):
        watched.step(seconds, 600)
    assert len(said.records) == 1 and "a token takes 4.0 times as long as before" in said.text


@pytest.mark.parametrize(
    ("own", "others", "threads", "cores", "seconds"),
    [
        (1.9, [0.0] * 6, 2, 2, 6.0),
        (1.9, [0.3] * 6, 2, 2, 6.0),
        (1.9, [0.0, 1.5, 0.0, 1.5, 0.0, 1.5], 2, 2, 6.0),
        (1.0, [1.0] * 6, 1, 2, 6.0),
        (2.0, [2.0] * 6, 2, 4, 6.0),
        (1.0, [1.5] * 6, 2, 2, 0.3),
    ],
    ids=["idle", "little", "now and then", "one thread", "cores enough", "too short to tell"],
)
def test_no_false_alarm(own: float, others: list[float], threads: int, cores: int, seconds: float, said: pytest.LogCaptureFixture) -> None:
    watched = crowd(own, others, threads=threads, cores=cores, seconds=seconds)
    watched.begin()
    for _ in range(5):
        watched.step(6.0, 100)
    assert not said.records


def test_where_the_system_does_not_tell_nothing_is_said(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(crowding, "STAT", tmp_path / "missing")
    assert crowding.look() is None
    watched = Crowd(2, cores=2)
    watched.begin()
    watched.step(100.0, 1)
    assert not said.records


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_clocks_see_another_process_and_not_this_one_twice() -> None:
    first = crowding.look()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline = time.monotonic() + 30
        while (spent := seconds_of(busy.pid)) < 0.5 and time.monotonic() < deadline:
            time.sleep(0.05)
        second = crowding.look()
    finally:
        busy.kill()
        busy.wait()
    assert first is not None and second is not None and spent >= 0.5
    assert second.busy - first.busy - (second.own - first.own) >= spent - 0.1


def seconds_of(process: int) -> float:
    """What a process has used of the cores."""
    return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13])) / 100
