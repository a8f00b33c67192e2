"""Tune a decoder with LoRA through ms-swift: the same prompts and answers, the loss on answers only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stopwatch import Stopwatch, counting, report
from swift import sft_main
from swift.callbacks import callbacks_map
from swift.template import TemplateMeta, register_template


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", required=True)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    with Path("rows.jsonl").open("w", encoding="utf-8") as stream:
        for line in Path(asked.material, "alpaca.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            stream.write(json.dumps({"query": row["prompt"], "response": row["completion"]}) + "\n")
    watch, counts = Stopwatch(), counting()
    register_template(TemplateMeta("as-it-is", prefix=[], prompt=["{{QUERY}}"], chat_sep=None))
    callbacks_map["stopwatch"] = lambda _args, _trainer: watch
    sft_main([word for key, value in settings(asked).items() for word in (f"--{key}", str(value))])
    report(watch, counts, unit="tokens", short=asked.steps is not None)


def settings(asked: argparse.Namespace) -> dict[str, object]:
    """Return ms-swift's arguments."""
    return {
        "model": f"{asked.material}/model",
        "model_type": "qwen2",
        "template": "as-it-is",
        "dataset": "rows.jsonl",
        "split_dataset_ratio": 0,
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0,
        "torch_dtype": "bfloat16",
        "bf16": "true",
        "use_cpu": "true",
        "max_length": 1024,
        "output_dir": "swift",
        "gradient_checkpointing": "false",
        "per_device_train_batch_size": asked.batch,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": asked.epochs,
        "max_steps": asked.steps or -1,
        "learning_rate": asked.rate,
        "optim": "adamw_torch_fused",
        "group_by_length": "true",
        "use_logits_to_keep": "true",
        "dataloader_num_workers": 0,
        "dataset_num_proc": 1,
        "seed": asked.seed,
        "save_strategy": "no",
        "logging_steps": 5,
        "report_to": "none",
        "callbacks": "stopwatch",
    }


if __name__ == "__main__":
    main()
