"""Tune a decoder with LoRA through LLaMA-Factory: the same prompts and answers, the loss on answers only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llamafactory.train.tuner import run_exp
from stopwatch import Stopwatch, counting, report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", required=True)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    columns = {"prompt": "prompt", "response": "completion"}
    described = {"alpaca": {"file_name": str(Path(asked.material, "alpaca.jsonl").resolve()), "columns": columns}}
    Path("dataset_info.json").write_text(json.dumps(described), encoding="utf-8")
    watch, counts = Stopwatch(), counting()
    run_exp(settings(asked), callbacks=[watch])
    report(watch, counts, unit="tokens", short=asked.steps is not None)


def settings(asked: argparse.Namespace) -> dict[str, object]:
    """Return LLaMA-Factory's arguments."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": f"{asked.material}/model",
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "dataset": "alpaca",
        "dataset_dir": ".",
        "template": "empty",
        "cutoff_len": 1024,
        "output_dir": "factory",
        "use_cpu": True,
        "bf16": True,
        "disable_gradient_checkpointing": True,
        "per_device_train_batch_size": asked.batch,
        "num_train_epochs": asked.epochs,
        "max_steps": asked.steps or -1,
        "learning_rate": asked.rate,
        "warmup_steps": 0.06,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "group_by_length",
        "dataloader_pin_memory": False,
        "seed": asked.seed,
        "save_strategy": "no",
        "logging_steps": 5,
        "report_to": "none",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    main()
