"""Time and memory of cross-entropy over a vocabulary, forward and backward: ours, plain, and torch's own chunks.

    python bench/cross_entropy.py                  # all shapes; --rounds 5 by default
    python bench/cross_entropy.py --rounds 3 2048x256x32000

Times are interleaved: each round runs every way once, and the ratio is the median over rounds of (their time / our time), in wall time
and in processor time of the thread, which is steadier on a shared machine. Memory is the growth of the peak resident size over one
forward and backward pass, each in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from luthier.losses.vocabulary.chunked import linear_cross_entropy

SHAPES = ("2048x256x32000", "1000x320x151936")
PRECISIONS = ("fp32", "bf16")


def plain(states: Tensor, weight: Tensor, targets: Tensor, precision: str) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        return functional.cross_entropy(functional.linear(states, weight), targets, reduction="sum")


def chunks_of_torch(states: Tensor, weight: Tensor, targets: Tensor, precision: str) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=256)
    if precision == "bf16":
        states, weight = states.bfloat16(), weight.bfloat16()
    return functional.linear_cross_entropy(states, weight, targets, reduction="sum", options=options)


def ours(states: Tensor, weight: Tensor, targets: Tensor, precision: str) -> Tensor:
    return linear_cross_entropy(states, weight, targets, precision=precision)  # type: ignore[arg-type]


WAYS: dict[str, Callable[..., Tensor]] = {"ours": ours, "plain": plain, "chunks of torch": chunks_of_torch}


def made(shape: str, frozen: bool) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    num, width, words = map(int, shape.split("x"))
    weight = torch.randn(words, width).mul_(0.05).requires_grad_(not frozen)
    return torch.randn(num, width, requires_grad=True), weight, torch.randint(words, (num,))


def once(way: str, given: tuple[Tensor, ...], precision: str) -> tuple[float, float]:
    """Wall and processor seconds of one forward and backward pass."""
    for tensor in given:
        tensor.grad = None
    wall, processor = time.perf_counter(), time.process_time()
    WAYS[way](*given, precision).backward()
    return time.perf_counter() - wall, time.process_time() - processor


def peak_mib() -> float:
    """Largest resident size of this program; getrusage would count that of the parent before exec too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def grown(way: str, shape: str, precision: str, frozen: bool) -> float:
    """Growth in MiB of the peak of this process; run it in a fresh one."""
    small = tuple(tensor.detach() for tensor in made("64x16x512", frozen))
    once(way, (small[0].requires_grad_(), small[1].requires_grad_(not frozen), small[2]), precision)
    given = made(shape, frozen)
    before = peak_mib()
    once(way, given, precision)
    return peak_mib() - before


def measured(shape: str, precision: str, frozen: bool, rounds: int) -> dict[str, object]:
    child = [sys.executable, __file__, "--grown"]
    memory = {
        way: float(subprocess.run([*child, way, shape, precision, str(frozen)], check=True, capture_output=True, text=True).stdout)
        for way in WAYS
    }
    given = made(shape, frozen)
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, taken in seconds.items():
            taken.append(once(way, given, precision))
    facts: dict[str, object] = {"shape": shape, "precision": precision, "head": "frozen" if frozen else "trained", "rounds": rounds}
    for way, taken in seconds.items():
        facts[way] = {
            "seconds": round(statistics.median(wall for wall, _ in taken), 2),
            "processor_seconds": round(statistics.median(processor for _, processor in taken), 2),
            "mib": round(memory[way]),
            "time_ratio": round(statistics.median(wall / mine[0] for (wall, _), mine in zip(taken, seconds["ours"], strict=True)), 2),
            "processor_ratio": round(statistics.median(used / mine[1] for (_, used), mine in zip(taken, seconds["ours"], strict=True)), 2),
            "memory_ratio": round(memory[way] / max(memory["ours"], 1e-3), 2),
        }
    return facts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grown", nargs=4)
    options = parser.parse_args()
    if options.grown:
        way, shape, precision, frozen = options.grown
        print(grown(way, shape, precision, frozen == "True"))
        return
    for shape in options.shapes:
        for precision in PRECISIONS:
            for frozen in (False, True):
                print(json.dumps(measured(shape, precision, frozen, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
