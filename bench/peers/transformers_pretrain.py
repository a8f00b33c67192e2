"""Train a GPT-2-shaped model from nothing with transformers' Trainer and its best flags, on a text cut into blocks."""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset
from stopwatch import Stopwatch, counting, report
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, default_data_collator, set_seed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    set_seed(asked.seed)
    tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer)
    ids = tokenizer(Path(asked.train).read_text(encoding="utf-8"), verbose=False)["input_ids"]
    blocks = [ids[start : start + asked.length] for start in range(0, len(ids) - asked.length + 1, asked.length)]
    rows = Dataset.from_dict({"input_ids": blocks, "labels": blocks})
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=asked.length, n_layer=8, n_embd=256, n_head=8, use_cache=False)
    watch, counts = Stopwatch(), counting()
    trainer = Trainer(
        model=GPT2LMHeadModel._from_config(config, attn_implementation=asked.attention),
        args=settings(asked),
        train_dataset=rows,
        data_collator=default_data_collator,
        callbacks=[watch],
    )
    trainer.train()
    report(watch, counts, unit="tokens", short=asked.steps is not None)


def settings(asked: argparse.Namespace) -> TrainingArguments:
    """Return the Trainer's arguments."""
    return TrainingArguments(
        output_dir="trainer",
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=asked.batch,
        num_train_epochs=1,
        max_steps=asked.steps or -1,
        learning_rate=asked.rate,
        warmup_steps=0.06,
        weight_decay=0.01,
        optim="adamw_torch_fused",
        torch_compile=asked.compile,
        dataloader_pin_memory=False,
        seed=asked.seed,
        save_strategy="no",
        logging_steps=5,
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()
