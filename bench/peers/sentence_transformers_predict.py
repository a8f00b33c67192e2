"""Encode texts with sentence-transformers in bfloat16, which sorts them by length itself; loading is left out, and so is any head."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int)
    asked = parser.parse_args()
    texts = json.loads(Path(asked.material, "texts.json").read_text(encoding="utf-8"))[: asked.limit]
    model = SentenceTransformer(f"{asked.material}/encoder", device="cpu", model_kwargs={"torch_dtype": torch.bfloat16})
    model.encode(texts[:256], batch_size=asked.batch)
    started = time.perf_counter()
    model.encode(texts, batch_size=asked.batch, convert_to_numpy=False, convert_to_tensor=True)
    seconds = time.perf_counter() - started
    print(json.dumps({"value": len(texts) / seconds, "seconds": seconds}))


if __name__ == "__main__":
    main()
