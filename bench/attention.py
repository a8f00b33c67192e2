"""Attention forward and backward: tiles by hand beside torch's own, in turns, for shapes of encoders and decoders.

    python bench/attention.py [--rounds 7]

Readings go to docs/attention.json and into the second table of docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from results import keep_in
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from luthier.models.lean.tiled_attention import tiled_attention

ROOT = Path(__file__).parents[1]
STORE, PAGE = ROOT / "docs" / "attention.json", ROOT / "docs" / "speed.md"
START, END = "<!-- attention: begin -->", "<!-- attention: end -->"
SHAPES = ((32, 12, 32, 32), (8, 8, 256, 32), (8, 8, 512, 40), (8, 12, 512, 64), (2, 12, 1024, 64))
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time attention by tiles beside torch's.")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    found = []
    for shape in SHAPES:
        for name in TYPES:
            for dropout in (0.0, 0.1):
                found.append({"shape": shape, "type": name, "dropout": dropout, **in_turns(shape, TYPES[name], dropout, asked.rounds)})
                print(json.dumps(found[-1]), flush=True)
    keep_in(STORE, "attention", {"rounds": asked.rounds, "readings": found})
    write_page()


def in_turns(shape: tuple[int, ...], dtype: torch.dtype, dropout: float, rounds: int) -> dict[str, float]:
    """Return how many times faster tiles are: median, least and most of the rounds."""
    torch.manual_seed(0)
    given = [torch.randn(shape, dtype=dtype).requires_grad_() for _ in range(3)]
    grad = torch.randn(shape, dtype=dtype)
    ratios = []
    for _ in range(rounds + 1):
        times = [timed(way, given, grad, dropout) for way in (ours, theirs)]
        ratios.append(times[1] / times[0])
    del ratios[0]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def timed(way: object, given: list[Tensor], grad: Tensor, dropout: float) -> float:
    started = time.perf_counter()
    torch.autograd.grad(way(given, dropout), given, grad)  # type: ignore[operator]
    return time.perf_counter() - started


def ours(given: list[Tensor], dropout: float) -> Tensor:
    return tiled_attention(*given, scale=given[0].shape[-1] ** -0.5, dropout=dropout, causal=True)


def theirs(given: list[Tensor], dropout: float) -> Tensor:
    return scaled_dot_product_attention(*given, dropout_p=dropout, is_causal=True)


def write_page() -> None:
    """Put the table into docs/speed.md."""
    facts = json.loads(STORE.read_text(encoding="utf-8"))["attention"]
    lines = [
        f"Causal attention, forward and backward: times as fast as torch's, median (least to most) of {facts['rounds']} rounds in turns, "
        f"{facts['hardware']}, torch {facts['packages']['torch']}, {facts['measured']}:",
        "",
        "| rows x heads x tokens x width | bf16 | bf16, dropout | fp32 | fp32, dropout |",
        "|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        cells = [f"{r['median']:.1f} ({r['min']:.1f} to {r['max']:.1f})" for r in facts["readings"] if tuple(r["shape"]) == shape]
        lines.append(f"| {' x '.join(map(str, shape))} | {' | '.join(cells)} |")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text("".join([before, START, "\n", "\n".join(lines), "\n", END, after]), encoding="utf-8")


if __name__ == "__main__":
    main()
