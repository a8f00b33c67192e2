"""Fine-tune a sentence classifier with transformers' Trainer: with its defaults, or with its best flags."""

from __future__ import annotations

import argparse

import numpy as np
from datasets import Dataset
from stopwatch import Stopwatch, counting, report
from table_of_texts import read
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

BEST = {"bf16": True, "optim": "adamw_torch_fused", "train_sampling_strategy": "group_by_length", "dataloader_pin_memory": False}


def main() -> None:
    asked = arguments()
    set_seed(asked.seed)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    texts, names = read(asked.train, asked.text, asked.label)
    labels = sorted(set(names))
    train = encoded(tokenizer, texts, [labels.index(name) for name in names])
    model = AutoModelForSequenceClassification.from_pretrained(
        asked.model, num_labels=len(labels), dtype="float32", **({"attn_implementation": asked.attention} if asked.attention else {})
    )
    freeze(model, asked.freeze)
    if asked.lora:
        model = with_lora(model, asked.lora)
    watch, counts = Stopwatch(), counting()
    trainer = Trainer(model=model, args=settings(asked), train_dataset=train, processing_class=tokenizer, callbacks=[watch])
    trainer.train()
    score = None
    if asked.steps is None:
        if asked.save:
            trainer.save_model("model")
        texts, names = read(asked.test, asked.text, asked.label)
        truth = np.array([labels.index(name) for name in names])
        found = trainer.predict(encoded(tokenizer, texts, truth.tolist()))  # grouped by length too, so in an order of its own
        score = float((found.predictions.argmax(-1) == found.label_ids).mean())
    report(watch, counts, unit="rows", short=asked.steps is not None, score=score)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("train", "test", "text", "label", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flags", choices=["defaults", "best"], default="best")
    parser.add_argument("--freeze", default="0", help="lower layers that stay as they are, or body")
    parser.add_argument("--lora", type=int, help="rank of a LoRA on all linear layers, by plain peft")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--attention")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def settings(asked: argparse.Namespace) -> TrainingArguments:
    """Return the Trainer's arguments; logging and saving are off, which the defaults are not."""
    best = BEST | {
        "dataloader_num_workers": asked.workers,
        "dataloader_persistent_workers": asked.workers > 0,
        "torch_compile": asked.compile,
    }
    return TrainingArguments(
        output_dir="trainer",
        use_cpu=True,
        per_device_train_batch_size=asked.batch,
        per_device_eval_batch_size=asked.batch,
        num_train_epochs=asked.epochs,
        max_steps=asked.steps or -1,
        learning_rate=asked.rate,
        warmup_steps=0.06,
        weight_decay=0.01,
        seed=asked.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(best if asked.flags == "best" else {}),
    )


def encoded(tokenizer: object, texts: list[str], labels: list[int]) -> Dataset:
    """Return rows of tokens; lengths are written down, so that grouping has nothing to count."""
    rows = tokenizer(texts, truncation=True, max_length=512)
    return Dataset.from_dict({**rows, "labels": labels, "length": [len(ids) for ids in rows["input_ids"]]})


def freeze(model: object, what: str) -> None:
    """Freeze the embeddings and the lower layers of an encoder, or all but its classifier."""
    if what == "body":
        model.base_model.requires_grad_(False)
    elif int(what):
        model.base_model.embeddings.requires_grad_(False)
        for layer in model.base_model.encoder.layer[: int(what)]:
            layer.requires_grad_(False)


def with_lora(model: object, rank: int) -> object:
    """Return the model with a LoRA of plain peft on all linear layers of its body; the head is trained whole."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    return get_peft_model(model, config)


if __name__ == "__main__":
    main()
