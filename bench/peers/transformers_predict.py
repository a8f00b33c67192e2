"""Answer texts with transformers' pipeline in bfloat16, texts sorted by length; loading is left out."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from transformers import pipeline


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--attention")
    asked = parser.parse_args()
    texts = json.loads(Path(asked.material, "texts.json").read_text(encoding="utf-8"))[: asked.limit]
    options = {"model_kwargs": {"attn_implementation": asked.attention}} if asked.attention else {}
    classify = pipeline("text-classification", model=f"{asked.material}/model", device="cpu", dtype="bfloat16", **options)
    classify(texts[:256], batch_size=asked.batch)
    started = time.perf_counter()
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found = classify([texts[index] for index in order], batch_size=asked.batch)
    answers = [answer for _, answer in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]
    seconds = time.perf_counter() - started
    share = sum(answer["label"] == "LABEL_1" for answer in answers) / len(answers)
    print(json.dumps({"value": len(texts) / seconds, "seconds": seconds, "share_of_label_1": share}))


if __name__ == "__main__":
    main()
