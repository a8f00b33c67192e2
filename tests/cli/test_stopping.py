"""Ctrl-C and SIGTERM outside the training loop end the verb, even where something swallows what they raise."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from luthier.cli import stopping
from luthier.cli.stopping import LeaveNow, Stopping
from luthier.core.errors import DataError, Interrupted
from luthier.training.signals import StopSignal

NUMBERS = {signal.SIGTERM: 143, signal.SIGINT: 130}
PATIENCE_SECONDS = 30


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SECONDS_BETWEEN_TRIES", 0.05)


def swallowed(number: int) -> None:
    """A library that lets nothing through."""
    try:
        signal.raise_signal(number)
    except BaseException:
        return
    raise AssertionError("nothing was raised")


def wait() -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.01)
    raise AssertionError("it was never raised again")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_leaves_the_verb(number: int) -> None:
    with pytest.raises(Interrupted) as caught, Stopping():
        signal.raise_signal(number)
    assert caught.value.exit_code == NUMBERS[number] and "luthier train --resume" in str(caught.value)


@pytest.mark.parametrize("number", NUMBERS)
def test_what_was_swallowed_is_raised_again(number: int) -> None:
    with pytest.raises(Interrupted) as caught, Stopping():
        swallowed(number)
        swallowed(number)
        wait()
    assert caught.value.exit_code == NUMBERS[number]


@pytest.mark.parametrize("error", [AttributeError("partially initialised module"), DataError("row 3 cannot be read")])
def test_an_error_that_comes_of_it_is_a_stop(error: Exception) -> None:
    with pytest.raises(Interrupted) as caught, Stopping():
        swallowed(signal.SIGTERM)
        raise error
    assert caught.value.exit_code == 143 and caught.value.__suppress_context__


def test_a_training_that_has_begun_meanwhile_ends_its_step() -> None:
    with Stopping():
        swallowed(signal.SIGTERM)
        with StopSignal() as stop:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while stop.received is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.15)
    assert stop.received == signal.SIGTERM


def test_a_second_ctrl_c_leaves_a_training_at_once() -> None:
    with pytest.raises(Interrupted) as caught, Stopping(), StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert caught.value.exit_code == 130


def test_nothing_is_said_where_a_finaliser_swallows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    class Faulty:
        def __del__(self) -> None:
            raise ValueError("said as ever")

    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda swallowed: said.append(swallowed.exc_type))
    with pytest.raises(Interrupted), Stopping():
        Old(), Faulty()
        wait()
    assert said == [ValueError]


def test_without_a_signal_errors_and_handlers_stay_as_they_are() -> None:
    def installed() -> list[object]:
        return [signal.getsignal(number) for number in (*NUMBERS, signal.SIGALRM)]

    before, hook = installed(), sys.unraisablehook
    with pytest.raises(DataError, match="as it is"), Stopping():
        assert installed() != before
        raise DataError("as it is")
    with pytest.raises(Interrupted), Stopping():
        swallowed(signal.SIGINT)
        wait()
    assert installed() == before and sys.unraisablehook is hook and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not issubclass(LeaveNow, Exception), "nothing that catches errors may catch it"
