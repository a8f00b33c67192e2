"""What the machine lacks, and a fault of ours: each has its message and its exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import pydoc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

Luthier = Callable[..., Any]


def test_no_disk_space_at_the_start(luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.core.machine.free_disk_bytes", lambda path: 100_000)
    said = luthier("train", *flags)
    refused(said, "too little disk space", "0 MiB are free", "MiB are needed", "free some space", "--output")


def no_space(*given: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_space_in_safetensors(*given: Any, **named: Any) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("fails", [no_space, no_space_in_safetensors])
@pytest.mark.parametrize(
    "place",
    [
        "luthier.training.checkpoint.saved.save_model",
        "luthier.training.checkpoint.saved.save_file",
        "transformers.modeling_utils.PreTrainedModel.save_pretrained",
    ],
)
def test_the_disk_fills_up(
    luthier: Luthier, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, fails: Any
) -> None:
    """The run pauses, says so once, and ends by itself; nothing half written stays."""
    module, _, name = place.rpartition(".")
    owner = pydoc.locate(module)
    write, tries = getattr(owner, name), []

    def full_twice(*given: Any, **named: Any) -> Any:
        tries.append(name)
        return fails() if len(tries) < 3 else write(*given, **named)

    monkeypatch.setattr(place, full_twice)
    monkeypatch.setattr("luthier.training.patience.SECONDS_BETWEEN_LOOKS", 0.01)
    said = luthier("train", *flags, "training.save_every=1step")
    assert said.code == 0 and len(tries) >= 3
    assert said.words.count("the run pauses") == 1 and "going on" in said.words
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full here")
def test_the_disk_fills_up_under_the_answers(luthier: Luthier, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output on a device that is always full."""
    full = open("/dev/full", "w")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", full)
        said = luthier("predict", tiny_run, "a text")
    with contextlib.suppress(OSError):
        full.close()
    refused(said, "the disk is full", "free some space", code=3)


def allocate_too_much(*given: Any, **named: Any) -> None:
    import torch

    torch.empty(1 << 46)


def no_memory(*given: Any, **named: Any) -> None:
    raise MemoryError


def no_device_memory(*given: Any, **named: Any) -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize("fails", [allocate_too_much, no_memory, no_device_memory])
def test_out_of_memory(luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
    monkeypatch.setattr("luthier.training.step_rules.accumulate.Accumulate.gradient", fails)
    refused(luthier("train", *flags), "8 rows at once: going on with 4", "even with 1 row at once", "data.max_length", code=3)


def test_a_fault_of_ours_is_said_with_its_traceback(luthier: Luthier, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise RuntimeError("the bridge is loose")

    monkeypatch.setattr("luthier.training.step_rules.accumulate.Accumulate.gradient", broken)
    said = luthier("train", *flags, "--json")
    assert said.code == 1 and said.object["exit_code"] == 1 and len(said.out.splitlines()) == 1
    assert "Traceback" in said.err and "the bridge is loose" in said.err and "a fault of ours" in said.err
    assert "luthier env" in said.err
