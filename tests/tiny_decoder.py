"""A Llama of two layers and width 32 with a vocabulary of words, and instructions that it learns in seconds; a seed decides everything."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
VERBS = {"repeat": 1, "say": 1, "twice": 2}
WORDS = tuple("red green blue black white one two three four five six seven sun moon star tree house river cat dog bird fish".split())
MARKS = tuple(
    "below is an instruction that describes a task paired with input provides further context write response appropriately completes the "
    "request Below Write ### : . , Instruction Input Response".split()
)


def make_tiny_decoder(folder: Path, *, width: int = 32, seed: int = 0, chat_template: str | None = None) -> Path:
    """Write an untrained decoder and its tokenizer as transformers would; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_words(chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_words(chat_template: str | None = None) -> Any:
    """A tokenizer of whole words that begins every text with <s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = list(dict.fromkeys([*SPECIAL, *VERBS, *WORDS, *MARKS]))
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(".", "isolated")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=96
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_instructions(num_rows: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Prompts such as "twice" with the input "red sun" and the response "red sun red sun"; no prompt occurs twice."""
    dice = random.Random(seed)
    rows: dict[tuple[str, str], dict[str, str]] = {}
    while len(rows) < num_rows:
        verb, words = dice.choice(list(VERBS)), " ".join(dice.choices(WORDS, k=dice.randint(1, 4)))
        rows.setdefault((verb, words), {"instruction": verb, "input": words, "output": " ".join([words] * VERBS[verb])})
    return list(rows.values())


def write_instructions(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_text(path: Path, *, num_words: int = 3000, seed: int = 0) -> Path:
    """Write one text in which words come in a fixed order, each skipped now and then; returns the path."""
    dice = random.Random(seed)
    words = [word for number in range(num_words) if dice.random() < 0.9 for word in [WORDS[number % len(WORDS)]]]
    lines = [" ".join(words[start : start + 20]) for start in range(0, len(words), 20)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def writing_recipe(model: Path, rows: Path, output: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A recipe of 20 steps on one thread in float32, with changes by dotted key."""
    settings = {"task": {"type": "text-generation", "max_new_tokens": 8, "samples": 2}, "optim.learning_rate": 1e-2}
    return tiny.tiny_recipe(model, rows, output, settings | dict(changes or {}))
