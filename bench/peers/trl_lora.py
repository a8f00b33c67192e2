"""Tune a decoder with LoRA through TRL's SFTTrainer: prompts with completions, the loss on completions only."""

from __future__ import annotations

import argparse

from datasets import load_dataset
from peft import LoraConfig
from stopwatch import Stopwatch, counting, report
from trl import SFTConfig, SFTTrainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--material", required=True)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--weights", default="bfloat16", help="type of the frozen weights")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    asked = parser.parse_args()
    rows = load_dataset("json", data_files=f"{asked.material}/alpaca.jsonl", split="train")
    watch, counts = Stopwatch(), counting()
    trainer = SFTTrainer(
        model=f"{asked.material}/model",
        args=settings(asked),
        train_dataset=rows,
        peft_config=LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[watch],
    )
    trainer.train()
    report(watch, counts, unit="tokens", short=asked.steps is not None)


def settings(asked: argparse.Namespace) -> SFTConfig:
    """Return the trainer's arguments."""
    return SFTConfig(
        output_dir="trainer",
        use_cpu=True,
        bf16=True,
        model_init_kwargs={"dtype": asked.weights},
        per_device_train_batch_size=asked.batch,
        num_train_epochs=asked.epochs,
        max_steps=asked.steps or -1,
        learning_rate=asked.rate,
        warmup_steps=0.06,
        max_length=1024,
        packing=asked.packing,
        completion_only_loss=True,
        gradient_checkpointing=asked.checkpointing,
        train_sampling_strategy="random" if asked.packing else "group_by_length",
        optim="adamw_torch_fused",
        dataloader_pin_memory=False,
        seed=asked.seed,
        save_strategy="no",
        logging_steps=5,
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()
