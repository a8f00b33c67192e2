"""Train a decoder of GPT-2's size from nothing with litgpt, which compiles it: eight layers of width 256, tied vocabulary.

litgpt has no learned positions; its nearest shape has rotary ones. The first three steps, which compile, are left out of every run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from litgpt import Config
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.pretrain import setup
from tokenizers import Tokenizer
from torch.utils.data import DataLoader

WARM_UP = 3


@dataclass
class Blocks(DataModule):
    """A text in blocks of tokens; the time of each fetch is noted, so a step lasts from one to the next."""

    blocks: list[torch.Tensor] = field(default_factory=list)
    batch: int = 8
    marks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def connect(self, tokenizer: object = None, batch_size: int = 1, max_seq_length: int = -1) -> None:
        self.batch = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.blocks, batch_size=self.batch, shuffle=True, drop_last=True, collate_fn=self.noted)

    def noted(self, rows: list[torch.Tensor]) -> torch.Tensor:
        self.marks.append(time.perf_counter())
        return torch.stack(rows)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.blocks[: 2 * self.batch], batch_size=self.batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    words = Tokenizer.from_file(f"{asked.tokenizer}/tokenizer.json")
    ids = torch.tensor(words.encode(Path(asked.train).read_text(encoding="utf-8")).ids)
    data = Blocks([ids[start : start + asked.length + 1] for start in range(0, len(ids) - asked.length, asked.length)])
    sys.argv = [sys.argv[0], "own"]  # litgpt reads the command line again when it saves
    steps = asked.steps or len(data.blocks) // asked.batch
    setup(
        "own",
        model_config=shape(words.get_vocab_size(), asked.length),
        out_dir=Path("out"),
        precision="bf16-mixed",
        data=data,
        train=TrainArgs(
            save_interval=None,
            log_interval=10,
            global_batch_size=asked.batch,
            micro_batch_size=asked.batch,
            max_tokens=steps * asked.batch * asked.length,
            lr_warmup_steps=0,
            max_norm=1.0,
            tie_embeddings=True,
            min_lr=0.0,
        ),
        eval=EvalArgs(interval=1_000_000, max_iters=1, initial_validation=False, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": asked.rate, "weight_decay": 0.01, "fused": True}},
        devices=1,
        logger_name="csv",
        seed=asked.seed,
    )
    seconds = data.marks[steps] - data.marks[WARM_UP]
    print(json.dumps({"value": (steps - WARM_UP) * asked.batch * asked.length / seconds, "seconds": seconds, "steps": steps}), flush=True)


def shape(vocabulary: int, length: int) -> Config:
    """Return the shape nearest to GPT-2's."""
    return Config(
        name="own",
        block_size=length,
        vocab_size=vocabulary,
        padded_vocab_size=vocabulary,
        n_layer=8,
        n_embd=256,
        n_head=8,
        parallel_residual=False,
        rotary_percentage=1.0,
        gelu_approximate="tanh",
    )


if __name__ == "__main__":
    main()
