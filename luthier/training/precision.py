"""Which arithmetic matrix products use: decided by a short measurement, not by a list of processors."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Parts
from luthier.training.measured import Figures, remembered

WORTH_IT = 1.3
SECONDS = 0.05
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wanted: str, device: str) -> str:
    """Return `fp32`, `bf16` or `fp16`: what was wanted, or for `auto` bf16 where it is at least 1.3 times as fast as fp32.

    The measurement takes a third of a second, and is remembered in the cache folder for this machine, torch and number of threads.

    Args:
        wanted: auto, fp32, bf16 or fp16.
        device: Device of the run.

    Raises:
        ConfigError: if fp16 is wanted on a CPU.
    """
    if wanted == "fp16" and device == "cpu":
        what = "got fp16 and no GPU; a CPU has no fast fp16 products, and gradients would need scaling for nothing"
        raise ConfigError([Fault("training.precision", what, "use training.precision=bf16, or auto")])
    if wanted != "auto":
        return wanted
    named = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": named}
    rates = remembered("precision", facts, lambda: _products_per_second(device))
    return "bf16" if rates.get("bf16", 0.0) > WORTH_IT * rates.get("fp32", 0.0) else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Return the context in which the forward pass runs; fp32 changes nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=DTYPES[precision])


def allow_tf32(wanted: bool, device: str) -> None:
    """Let float32 products on a GPU round their factors to 10 bits of mantissa, or not; a CPU is left as it is."""
    if device != "cpu":
        torch.set_float32_matmul_precision("high" if wanted else "highest")


def halve_frozen(parts: Parts) -> None:
    """Keep frozen weights in bfloat16 alone: they are cast once, not in every step, and take half the memory."""
    for part in parts.values():
        for parameter in part.module.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.bfloat16()
        for module in part.module.modules():
            if hasattr(module, "compute_dtype"):  # of weights in 4 bits
                module.compute_dtype = torch.bfloat16  # type: ignore[assignment]


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


def _products_per_second(device: str) -> Figures:
    """Time products of the shape of a small encoder's feed-forward layer, in turns, so that a busy moment hits both kinds."""
    best = {"fp32": 0.0, "bf16": 0.0}
    for _ in range(3):
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            best[name] = max(best[name], _rate(dtype, device))
    return best


def _rate(dtype: torch.dtype, device: str) -> float:
    left, right = torch.ones(512, 384, device=device, dtype=dtype), torch.ones(1536, 384, device=device, dtype=dtype)
    torch.nn.functional.linear(left, right)
    _wait(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        torch.nn.functional.linear(left, right)
        _wait(device)
        count += 1
    return count / (time.perf_counter() - started)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
