"""What share of the machine's own bfloat16 matrix products a training reaches: an encoder of six layers, 32 x 128 tokens a step.

FLOPs of a step: 6 x weights of the layers' matrices x real tokens, and 12 x length x width for attention per token and layer (two products
forward, four backward). The peak is the best of the listed shapes, measured before and after the training in the same run; the training is
`luthier train`, timed by its own steps, the first three left out. Every position of every layer is computed (`needed_positions` is off), so
that no FLOP is counted that was not done.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from train import WARM_UP, reading, train

LAYERS, WIDTH, INNER, LENGTH, BATCH = 6, 768, 3072, 128, 32
SHAPES = (
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (512, 384, 1536),
    (4096, 768, 768),
    (4096, 768, 2304),
    (4096, 768, 3072),
    (4096, 3072, 768),
    (768, 4096, 3072),
)
SECONDS = 0.3


def main(material: str, out: Path, steps: int, threads: int) -> None:
    peaks = [peak_in_own_process(threads)]
    words = [f"model.path={material}/model", f"data.train={material}/texts.csv", "data.text=text", "data.label=label", "data.split.test=0"]
    words += [f"training.max_steps={steps}", f"training.batch_size={BATCH}", f"training.threads={threads}", "training.precision=bf16"]
    words += ["model.head.start=zero", "evaluate.baseline=false", "track.trackers=[]", "training.speed.needed_positions=false"]
    metrics = train(words, out)
    found = reading(out, metrics, unit="tokens", short=True)
    peaks.append(peak_in_own_process(threads))
    per_token = 6 * LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) + 12 * LAYERS * LENGTH * WIDTH
    best = max(peaks, key=lambda peak: peak["flops"])
    flops = per_token * found["value"]
    facts = {"flops": flops, "peak_flops": best["flops"], "peak_shape": best["shape"], "tokens_per_second": found["value"]}
    print(json.dumps({"value": flops / best["flops"], "steps": found["steps"] - WARM_UP, **facts}))


def peak_in_own_process(threads: int) -> dict[str, object]:
    """Return the highest rate of bfloat16 products that a fresh process reaches, and with what shape."""
    done = subprocess.run([sys.executable, __file__, "peak", str(threads)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_peak(threads: int) -> dict[str, object]:
    """Return the same for this process."""
    import torch

    torch.set_num_threads(threads)
    best: dict[str, object] = {"flops": 0.0}
    with torch.inference_mode():
        for m, k, n in SHAPES:
            left_MK, right_NK = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
            right_KN = right_NK.t().contiguous()
            for call in (lambda a=left_MK, b=right_NK: torch.nn.functional.linear(a, b), lambda a=left_MK, b=right_KN: a @ b):
                call()
                started, count = time.perf_counter(), 0
                while time.perf_counter() - started < SECONDS:
                    call()
                    count += 1
                rate = 2 * m * k * n * count / (time.perf_counter() - started)
                if rate > best["flops"]:
                    best = {"flops": rate, "shape": [m, k, n]}
    return best


if __name__ == "__main__":
    if sys.argv[1] == "peak":
        print(json.dumps(measure_peak(int(sys.argv[2]))))
    else:
        main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
