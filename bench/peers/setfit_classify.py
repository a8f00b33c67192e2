"""Fine-tune a sentence-transformers body with a head, end to end, through setfit: the same epochs over the same rows as the others.

setfit's own contrastive phase is left out: it makes pairs of the rows, which is other work, and far more of it.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext

import numpy as np
import torch
from setfit import SetFitModel
from table_of_texts import read
from transformers import set_seed


def main() -> None:
    asked = arguments()
    set_seed(asked.seed)
    texts, names = read(asked.train, asked.text, asked.label)
    labels = sorted(set(names))
    if asked.steps:
        texts, names = texts[: asked.steps * asked.batch], names[: asked.steps * asked.batch]
    model = SetFitModel.from_pretrained(asked.model, use_differentiable_head=True, head_params={"out_features": len(labels)}, device="cpu")
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16) if asked.bf16 else nullcontext():
        model.fit(
            texts,
            [labels.index(name) for name in names],
            num_epochs=1 if asked.steps else asked.epochs,
            batch_size=asked.batch,
            body_learning_rate=asked.rate,
            head_learning_rate=asked.head_rate,
            end_to_end=True,
            max_length=512,
            show_progress_bar=False,
        )
    seconds = time.perf_counter() - started
    score = None
    if not asked.steps:
        model.save_pretrained("model")
        test, truth = read(asked.test, asked.text, asked.label)
        with torch.autocast("cpu", dtype=torch.bfloat16) if asked.bf16 else nullcontext():
            predicted = np.asarray(model.predict(test, batch_size=asked.batch))
        score = float((predicted == np.array([labels.index(name) for name in truth])).mean())
    rows = len(texts) * (1 if asked.steps else asked.epochs)
    print(json.dumps({"value": rows / seconds, "seconds": seconds, "score": score}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("train", "test", "text", "label", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--head-rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
