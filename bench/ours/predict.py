"""Answer texts with Luthier's predictor, which `luthier predict` and the server use; loading is left out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from luthier.serve.predictor import Predictor


def main(material: str, threads: int, limit: int | None) -> None:
    import torch

    torch.set_num_threads(threads)
    texts = json.loads(Path(material, "texts.json").read_text(encoding="utf-8"))[:limit]
    predictor = Predictor.open(Path(material, "model"), precision="bf16")
    list(predictor.answer(texts[:256]))
    started = time.perf_counter()
    answers = list(predictor.answer(texts))
    seconds = time.perf_counter() - started
    assert len(answers) == len(texts)
    share = sum(answer.label == "LABEL_1" for answer in answers) / len(answers)
    print(json.dumps({"value": len(texts) / seconds, "seconds": seconds, "share_of_label_1": share}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
