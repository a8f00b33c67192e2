"""A real beginning of a run, weights and all, in a process of its own: more exact than a trial, and slower."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from luthier.core import files, yaml
from luthier.core.errors import SetupError
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe
from luthier.stages.planning.shape import Kept
from luthier.stages.planning.steps import Steps
from luthier.stages.planning.trial import Trial

STEPS = 4  # the first is not counted


def measured(recipe: Recipe, prepared: Prepared, steps: Steps, kept: Kept) -> Trial:
    """Begin the run for a few steps and return what it took.

    Args:
        recipe: The recipe with every `auto` decided.
        prepared: Its encoded rows.
        steps: The micro-batches of the run.
        kept: What a micro-batch keeps; the largest one need not be among the first.

    Raises:
        SetupError: if the run could not be begun.
    """
    with tempfile.TemporaryDirectory(prefix="luthier-plan-") as folder:
        run = Path(folder, "run")
        short = recipe.changed(training={"max_steps": STEPS}).model_copy(update={"output": str(run)})
        Path(folder, "recipe.yaml").write_text(yaml.dump(short.as_dict()), encoding="utf-8")
        command = [sys.executable, "-m", "luthier", "train", f"{folder}/recipe.yaml", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise SetupError(f"the run could not be begun to measure it: {said[0]}", fix="see what it says: luthier train ...")
        metrics = json.loads(done.stdout.splitlines()[-1])
        ticks = [line for line in files.read_json_lines(run / "events.jsonl") if "tokens" in line]
    micro = recipe.training.gradient_accumulation_steps
    padded = [float(steps.padded_M[place * micro : (place + 1) * micro].sum()) / micro for place in range(len(ticks))]
    seconds = [tick["seconds"] / micro for tick in ticks]
    keep = slice(1, None) if len(ticks) > 1 else slice(None)
    rate = sum(seconds[keep]) / sum(padded[keep])
    missing = kept.per_row * (len(steps.largest) - float(np.max(padded)) / float(steps.longest_M.max()))
    steps_seconds = sum(tick["seconds"] for tick in ticks)
    forward = rate / 3
    return Trial(
        tokens=[sum(padded[keep])],
        seconds=[sum(seconds[keep])],
        least=[min(one / tokens for one, tokens in zip(seconds[keep], padded[keep], strict=True)) * sum(padded[keep])],
        most=[max(one / tokens for one, tokens in zip(seconds[keep], padded[keep], strict=True)) * sum(padded[keep])],
        update_seconds=0.0,
        answer_seconds=forward,
        head_seconds=0.0,
        start_seconds=max(0.0, metrics["seconds"] - steps_seconds),
        process_bytes=0.0,
        peak_bytes=metrics["peak_memory_bytes"] + max(missing, 0.0),
        is_the_run=True,
        basis=f"measured on the first {len(ticks)} steps of the run itself",
    )
