"""Run folders as training leaves them, made up from a seed: small, fast, and of every shape a report meets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core import files
from luthier.core.run_folder import RunFolder

INTENTS = [
    "cancel order", "change address", "complaint", "delivery time", "greeting", "invoice",
    "opening hours", "payment problem", "product question", "refund", "return goods", "track parcel",
]  # fmt: skip
ENGLISH = "where is my parcel it was ment to arrive on monday and i still have nothing at all please help".split()
CHINESE = "我的包裹到现在还没有收到，请问什么时候可以送达？谢谢，麻烦尽快处理退款申请"


def ticks(
    num_steps: int = 300,
    *,
    start: float = 2.5,
    end: float = 0.2,
    speed: float = 5.0,
    noise: float = 0.05,
    rate: float = 2e-4,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return steps whose loss falls exponentially from `start` to `end`, the faster the larger `speed`."""
    draw = np.random.default_rng(seed)
    rows = []
    for step in range(1, num_steps + 1):
        level = end + (start - end) * math.exp(-speed * step / num_steps)
        warm = min(step / (0.06 * num_steps), (num_steps - step + 1) / (0.94 * num_steps))
        rows.append(
            {
                "step": step,
                "total_steps": num_steps,
                "epoch": 3 * step / num_steps,
                "samples": 32 * step,
                "tokens": 600 * step,
                "loss": level * float(np.exp(draw.normal(0, noise))),
                "grad_norm": float(np.exp(draw.normal(0.5, 0.4))),
                "learning_rate": rate * warm,
                "seconds": 0.08,
                "tokens_per_second": 7500.0,
                "memory_bytes": 700_000_000,
            }
        )
    return rows


def with_validation(rows: list[dict[str, Any]], losses: list[float], scores: list[float]) -> list[dict[str, Any]]:
    """Evaluate at even distances: give those ticks validation losses and accuracies."""
    for index, (loss, score) in enumerate(zip(losses, scores, strict=True)):
        tick = rows[round((index + 1) * len(rows) / len(losses)) - 1]
        tick["scores"] = {"validation": {"loss": loss, "accuracy": score}}
    return rows


def score(value: float, num_rows: int = 480) -> dict[str, float]:
    """Return a score with an interval as wide as so many rows allow."""
    half = 1.96 * math.sqrt(max(value * (1 - value), 1e-4) / num_rows)
    return {"value": value, "low": max(value - half, 0), "high": min(value + half, 1)}


def recipe(**changes: Any) -> dict[str, Any]:
    """Return a resolved recipe; `changes` replace whole sections."""
    return {
        "task": {"type": "text-classification", "problem": "auto"},
        "model": {"path": "all-MiniLM-L6-v2", "head": {"pooling": "auto", "hidden": []}, "extend_vocabulary": True},
        "data": {"train": "data/train.csv", "test": "data/test.csv", "text": "text", "slice_by": "language", "max_length": "auto"},
        "loss": {"type": "cross-entropy", "class_weights": "none", "label_smoothing": 0.0},
        "optim": {"type": "adamw", "learning_rate": 2e-4, "weight_decay": 0.01},
        "schedule": {"type": "linear", "warmup": "6%"},
        "training": {"epochs": 3, "batch_size": 32, "seed": 0, "precision": "bf16"},
        **changes,
    }


def metrics(accuracy: float = 0.915, num_rows: int = 480) -> dict[str, Any]:
    """Return `metrics.json` of a run that was tested."""
    shares = [f"{name}_{kind}" for name in ("precision", "recall", "f1") for kind in ("macro", "micro", "weighted")]
    scores = {"accuracy": score(accuracy, num_rows)} | {name: score(accuracy - 0.01, num_rows) for name in shares}
    scores |= {"mcc": score(accuracy - 0.02, num_rows), "auroc": score(0.99, num_rows)}
    scores["ece"] = {"value": 0.021, "low": 0.012, "high": 0.035}
    return {
        "run": "runs/made-up", "task": "text-classification", "scores": {"test": scores},
        "seconds": 64.2, "training_seconds": 41.7, "samples_per_second": 310.4, "tokens_per_second": 5120.0,
        "peak_memory_bytes": 1_204_000_000, "steps": 300, "epochs": 3.0, "best_step": None, "stopped_early": False,
    }  # fmt: skip


def evaluation(labels: list[str], *, num_rows: int = 480, right: float = 0.915, seed: int = 0) -> dict[str, Any]:
    """Return `evaluation.json` whose mistakes fall mostly on neighbouring classes."""
    draw = np.random.default_rng(seed)
    size = len(labels)
    matrix = np.zeros((size, size), dtype=int)
    for _ in range(num_rows):
        truth = int(draw.integers(size))
        good = draw.random() < right - 0.12 * (truth % 4 == 1)
        matrix[truth][truth if good else (truth + int(draw.choice([1, 1, 1, 2, 5]))) % size] += 1
    sheet = {
        "labels": labels, "multi_label": False, "num_rows": num_rows, "resamples": 1000, "confidence": 0.95,
        "confusion": matrix.tolist(), "per_class": _per_class(labels, matrix), "reliability": _reliability(num_rows),
        "mistakes": [_mistake(labels, index, draw) for index in range(20)],
        "slices": {"en": {"num_rows": num_rows // 2, "accuracy": score(0.946, num_rows // 2), "f1_macro": score(0.941, num_rows // 2)},
                   "zh": {"num_rows": num_rows // 2, "accuracy": score(0.884, num_rows // 2), "f1_macro": score(0.872, num_rows // 2)}},
        "baseline": {"name": "nearest class centroid on the untuned embeddings",
                     "scores": {"accuracy": score(0.712, num_rows), "f1_macro": score(0.70, num_rows)},
                     "slices": {"en": {"num_rows": num_rows // 2, "accuracy": score(0.83, num_rows // 2)}}},
        "comparison": {"base": 0.712, "tuned": 0.915, "difference": 0.203, "low": 0.165, "high": 0.243, "p_value": 1e-9,
                       "only_base_right": 9, "only_tuned_right": 106, "verdict": "better"},
    }  # fmt: skip
    return {"test": sheet}


def data(labels: list[str], *, train: int = 1200) -> dict[str, Any]:
    """Return `data.json`."""
    edges = list(range(0, 68, 4))
    counts = [int(3000 * math.exp(-((edge - 16) ** 2) / 120)) for edge in edges[:-1]]
    rows = {"train": train, "test": 480}
    classes = {split: {label: rows[split] // len(labels) + (index * 7) % 11 for index, label in enumerate(labels)} for split in rows}
    characters = {"median": 31.0, "p95": 70.0, "max": 182, "histogram": {"16": 900}}
    return {
        "fingerprint": "4f1c" * 16,
        "sources": {split: _source(f"data/{split}.csv", number) for split, number in rows.items()},
        "left_out_as_equal": {"test": {"texts": 1, "rows": 2}},
        "splits": {split: {"rows": rows[split], "classes": classes[split], "characters": characters} for split in rows},
        "duplicates": {"repeated_rows": 4, "contradictory_texts": 0},
        "tokens": {
            "histogram": {"edges": edges, "counts": counts}, "longest": 61, "max_length": 64, "truncated": {"train": 0, "test": 0},
            "unknown_share_before": 0.31, "added_characters": 212, "unknown_share": 0.002,
            "unknown_share_by_split": {"train": 0.0, "test": 0.004},
            "by_slice": {"en": 0.0, "zh": 0.009},
        },
        "notes": ["1 training row equal to a test row was left out of training", "2 bad rows left out: empty text 1, missing label 1"],
    }  # fmt: skip


def _source(path: str, rows: int) -> dict[str, Any]:
    return {
        "source": path, "format": "csv", "sha256": "ab" * 32, "bytes": 91_822, "encoding": "utf-8", "header": True, "delimiter": ",",
        "columns": {"text": "text", "label": "intent"}, "read": rows + 2, "kept": rows, "bad": {"empty text": 1, "missing label": 1},
    }  # fmt: skip


ENVIRONMENT = {
    "python": "3.11.9", "system": "Linux-6.1-x86_64", "processor": "A processor of two cores", "cores": 2, "memory_bytes": 8_000_000_000,
    "packages": {"luthier": "0.1.0", "torch": "2.13.0", "mlflow": None},
    "command": ["luthier", "train", "recipe.yaml", "training.epochs=3"],
}  # fmt: skip


def write(path: Path, *, steps: list[dict[str, Any]] | None = None, **contents: Any) -> RunFolder:
    """Write a run folder; `contents` are its files by name, those that are None are left out."""
    run = RunFolder.create(path, recipe=contents.pop("recipe", None) or recipe(), environment=ENVIRONMENT)
    if steps is not None:
        files.write_json_lines(run.events, [{"event": "start"}, *steps, {"event": "end"}])
    for name, content in contents.items():
        if content is not None:
            files.write_json(getattr(run, name), content)
    return run


def twelve(path: Path) -> RunFolder:
    """Write a healthy run over 12 intents in two languages."""
    return write(path, steps=ticks(), metrics=metrics(), evaluation=evaluation(INTENTS), data=data(INTENTS))


def seventy_seven(path: Path) -> RunFolder:
    """Write a run over 77 classes with validation and thousands of steps."""
    labels = [f"{('card', 'transfer', 'top_up')[index % 3]}_{('declined', 'pending')[index % 2]}_{index}" for index in range(77)]
    steps = ticks(6000, start=4.34, end=0.08, noise=0.25)
    steps = with_validation(steps, [1.9, 0.9, 0.6, 0.5, 0.46, 0.45], [0.6, 0.8, 0.87, 0.9, 0.92, 0.922])
    found = metrics(0.921, 3080) | {"best_step": 5000}
    found["scores"]["validation"] = found["scores"]["test"]
    return write(path, steps=steps, metrics=found, evaluation=evaluation(labels, num_rows=3080), data=data(labels, train=9900))


def two(path: Path) -> RunFolder:
    """Write a run over 2 classes."""
    labels = ["negative", "positive"]
    return write(path, steps=ticks(), metrics=metrics(0.89, 1821), evaluation=evaluation(labels, num_rows=1821), data=data(labels))


def multi_label(path: Path) -> RunFolder:
    """Write a run where a row has several labels."""
    found = evaluation(INTENTS[:5])
    found["test"] |= {"multi_label": True, "confusion": None, "comparison": None, "baseline": None, "slices": {}}
    wrong = {"truth": [], "predicted": ["invoice", "refund"], "probability": 0.9, "truth_probability": 0.1}
    found["test"]["mistakes"] = [{"id": 3, "text": "none of it", **wrong}]
    return write(path, steps=ticks(), metrics=metrics(), evaluation=found, data=data(INTENTS[:5]))


def _per_class(labels: list[str], matrix: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for index, label in enumerate(labels):
        hits, truths, answers = (int(number) for number in (matrix[index][index], matrix[index].sum(), matrix[:, index].sum()))
        precision, recall, f1 = hits / max(answers, 1), hits / max(truths, 1), 2 * hits / max(truths + answers, 1)
        rows.append({"label": label, "precision": precision, "recall": recall, "f1": f1, "support": truths})
    return rows


def _reliability(num_rows: int) -> list[dict[str, Any]]:
    shares = [0, 0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.54]
    bins = []
    for index, share in enumerate(shares):
        said = (index + 0.5) / 10
        stated, true = (said, max(0.0, said - 0.04 + 0.03 * (index % 2))) if share else (None, None)
        edges = {"low": index / 10, "high": (index + 1) / 10}
        bins.append({**edges, "count": round(share * num_rows), "confidence": stated, "accuracy": true})
    return bins


def _mistake(labels: list[str], index: int, draw: np.random.Generator) -> dict[str, Any]:
    english = " ".join(draw.permutation(ENGLISH)[: 6 + index])
    first = int(draw.integers(len(labels)))
    return {
        "id": 40 + 3 * index,
        "text": CHINESE[index % 9 : index % 9 + 18] if index % 3 == 1 else english.capitalize() + "?",
        "truth": labels[first],
        "predicted": labels[(first + 1) % len(labels)],
        "probability": 0.98 - 0.02 * index,
        "truth_probability": 0.01 + 0.01 * index,
    }
