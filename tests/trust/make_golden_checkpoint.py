"""Writes tests/golden/checkpoints/vN/: a tiny run of the format of this Luthier, stopped in the middle, with its end beside it.

    python tests/trust/make_golden_checkpoint.py tests/golden/checkpoints/v2

Run it once per format, with the code that writes it; the folder is never changed again. It holds `base/` (the untrained model), `rows.csv`,
`run/` (stopped after step 4 of 6, with the checkpoint of step 4), and `end/`: model, log and answers of the same run, never stopped.
Paths in `run/recipe.yaml` are relative to the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny  # noqa: E402

WORDS = ("parcel courier late shipping card refund invoice charged password account locked email the a it is my was please today").split()
STEPS, STOPPED_AT = 6, 4
KEPT_OF_THE_END = ("model", "reference.jsonl", "events.jsonl")
CHANGES = {"training.max_steps": STEPS, "training.save_every": "2steps", "training.keep_checkpoints": 1, "evaluate.baseline": False}


def write_model(folder: Path) -> None:
    """An encoder of one layer and width 8, with 25 tokens."""
    import torch
    from transformers import BertConfig, BertModel

    tokens = [*tiny.SPECIAL, *WORDS]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(tokens), max_position_embeddings=12, **sizes)).save_pretrained(folder)
    tiny._tokenizer(tokens).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 12}))


def make(target: Path) -> None:
    from luthier import flow

    target.mkdir(parents=True)
    target = target.resolve()
    write_model(target / "base")
    rows = [(" ".join([WORDS[4 * kind + n % 4], WORDS[12 + n % 9 % 8]]), label) for n in range(8) for kind, label in enumerate("abc")]
    tiny.write_rows(target / "rows.csv", sorted(set(rows)))
    os.chdir(target)
    recipe = tiny.tiny_recipe(Path("base"), Path("rows.csv"), Path("run"), CHANGES)
    ticks = iter(flow.Training.begin(recipe))
    while next(ticks).step <= STOPPED_AT:
        pass
    ticks.close()  # type: ignore[attr-defined]
    end = flow.train({**recipe, "output": "whole"}).path
    (target / "end").mkdir()
    for name in KEPT_OF_THE_END:
        shutil.move(end / name, target / "end" / name)
    shutil.rmtree(end)
    for folder in (target / "run" / "checkpoints").glob("step-*"):
        if folder.name != f"step-{STOPPED_AT:08d}":
            shutil.rmtree(folder)
    (target / "run" / "environment.json").write_text("{}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LUTHIER_CACHE"] = cache
        make(Path(sys.argv[1]))
