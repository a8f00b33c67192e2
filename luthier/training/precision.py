"""Which arithmetic matrix products use: decided by a short measurement, not by a list of processors."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch

from luthier.core.work import Parts

WORTH_IT = 1.3
SECONDS = 0.05


def choose_precision(wanted: str, device: str) -> str:
    """Return `fp32` or `bf16`: what was wanted, or for `auto` bf16 where it is at least 1.3 times as fast.

    Args:
        wanted: auto, fp32 or bf16.
        device: Device of the run.
    """
    if wanted != "auto":
        return wanted
    fp32 = _products_per_second(torch.float32, device)
    bf16 = _products_per_second(torch.bfloat16, device)
    return "bf16" if bf16 > WORTH_IT * fp32 else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Return the context in which the forward pass runs; fp32 changes nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)


def halve_frozen(parts: Parts) -> None:
    """Keep frozen weights in bfloat16 alone: they are cast once, not in every step, and take half the memory."""
    for part in parts.values():
        for parameter in part.module.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.bfloat16()


def arithmetic(parts: Parts, device: str) -> AbstractContextManager[object]:
    """Return the context in which parts are measured: float32, or that of `halve_frozen` where it was used."""
    halved = any(parameter.dtype == torch.bfloat16 for part in parts.values() for parameter in part.module.parameters())
    return autocast("bf16" if halved else "fp32", device)


def choose_device(local_rank: int = 0) -> str:
    """Return the accelerator of a process, else the CPU.

    Args:
        local_rank: Number of the process on this machine, from 0.
    """
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.device_count() > 1 else "cuda"


def _products_per_second(dtype: torch.dtype, device: str) -> float:
    """Time products of the shape of a small encoder's feed-forward layer."""
    left, right = torch.ones(512, 384, device=device, dtype=dtype), torch.ones(1536, 384, device=device, dtype=dtype)
    best = 0.0
    for _ in range(3):
        torch.nn.functional.linear(left, right)
        _wait(device)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            torch.nn.functional.linear(left, right)
            _wait(device)
            count += 1
        best = max(best, count / (time.perf_counter() - started))
    return best


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
