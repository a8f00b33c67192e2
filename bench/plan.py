"""Compare what `luthier plan` says with what the run then takes, on this machine, and keep it in docs/plan.json.

    LUTHIER_DATA=... python bench/plan.py              all six
    LUTHIER_DATA=... python bench/plan.py sst2         one of them
    python bench/plan.py table                         the table of docs/guide/plan.md, from docs/plan.json

Runs are shortened to 12 steps and to fewer rows to measure on, use one thread, and are planned so. Real memory is the largest of
the whole command; real time is the sum over the steps of the run, and that of the whole command. The plan is made anew right before
its run; on a busy machine neither time says anything.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from luthier.core.machine import environment

STORE = Path(__file__).parents[1] / "docs" / "plan.json"
COMMAND = [sys.executable, "-m", "luthier"]
SHORT = ["training.max_steps=12", "training.threads=1", "evaluate.resamples=100", "evaluate.baseline=false", "track.trackers=[]"]
SST2 = ["sst2", "data.test=$LUTHIER_DATA/sst2/dev.tsv"]
HOTELS = ["zh-hotel-reviews", "data.split.test=0.05"]
RECIPES = {
    "sst2": SST2,
    "banking77": ["banking77"],
    "support-intents": ["support-intents"],
    "zh-hotel-reviews": HOTELS,
    "sst2, 128 rows, fp32": [*SST2, "training.batch_size=128", "training.precision=fp32"],
    "2 layers from zero, 256 tokens": [*HOTELS, "data.max_length=256", "model.path=SCRATCH", "training.batch_size=16"],
}


def main(names: list[str]) -> None:
    """Measure the named recipes, or all, and print the table."""
    if names != ["table"]:
        with tempfile.TemporaryDirectory() as folder:
            for name in names or RECIPES:
                keep(name, compare(RECIPES[name], Path(folder)))
    print(table(json.loads(STORE.read_text(encoding="utf-8"))))


def compare(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Plan a run, then do it."""
    words = [word.replace("SCRATCH", str(scratch(folder))) if "SCRATCH" in word else word for word in arguments] + SHORT
    began = time.time()
    planned = luthier("plan", *words, "--fresh")
    took = time.time() - began
    run = folder / f"run-{time.time_ns()}"
    real = luthier("train", *words, f"output={run}")
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [line["seconds"] for line in lines if "tokens" in line]
    here = planned["machines"][0]
    return {
        "planned": {"memory": here["memory"], "seconds": here["seconds"], "plan_took": round(took, 1)},
        "real": {
            "memory": real["peak_memory_bytes"],
            "steps": round(sum(seconds), 2),
            "median_step": round(statistics.median(seconds), 4),
            "total": real["seconds"],
        },
    }


def luthier(*arguments: str) -> dict[str, Any]:
    """Run a verb and return its object."""
    done = subprocess.run([*COMMAND, *arguments, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def scratch(folder: Path) -> Path:
    """Make an untrained BERT of 2 layers and width 256 with the embedded model's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from luthier.models import embedded

    made = folder / "scratch"
    if not made.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(str(embedded.folder()))
        config = BertConfig(vocab_size=len(tokenizer), hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024)
        BertModel(config).save_pretrained(made)
        tokenizer.save_pretrained(made)
    return made


def keep(name: str, facts: dict[str, Any]) -> None:
    """Store what was measured, with hardware and time."""
    stored = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    machine = environment()
    hardware = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"
    stored[name] = {"hardware": hardware, "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), **facts}
    STORE.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({name: facts}), flush=True)


def table(stored: dict[str, Any]) -> str:
    """Return the comparison as a table in Markdown."""
    heads = [f"{what}: planned | real | off by" for what in ("memory, MiB", "steps, s", "whole command, s")]
    lines = [f"| run | {' | '.join(heads)} |", "|---" * 10 + "|"]
    for name, entry in stored.items():
        planned, real = entry["planned"], entry["real"]
        pairs = [(planned["memory"]["total"] / 2**20, real["memory"] / 2**20)]
        pairs += [(planned["seconds"][key], real[key]) for key in ("steps", "total")]
        shown = " | ".join(
            f"{mine:,.{digits}f} | {theirs:,.{digits}f} | {mine / theirs - 1:+.0%}"
            for (mine, theirs), digits in zip(pairs, (0, 1, 0), strict=True)
        )
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
