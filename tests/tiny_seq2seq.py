"""A T5 (or BART, Marian) of two layers and width 32 with a vocabulary of words, and pairs of texts that it learns in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny

SPECIAL = ("<pad>", "</s>", "<unk>")
PAIRS = dict(
    red="rot", green="gruen", blue="blau", black="schwarz", white="weiss", one="eins", two="zwei", three="drei", four="vier", five="fuenf"
)
FAMILIES = ("t5", "bart", "marian")


def make_tiny_seq2seq(folder: Path, *, family: str = "t5", seed: int = 0) -> Path:
    """Write an untrained encoder-decoder and its tokenizer as transformers would; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    tokenizer = tiny_pairs_tokenizer()
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **{**_sizes(family), "vocab_size": len(tokenizer)}))
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _sizes(family: str) -> dict[str, Any]:
    if family == "t5":
        sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}
    else:
        sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in _stack().items()}
        sizes |= {"d_model": 32, "max_position_embeddings": 64, "init_std": 0.1, "forced_eos_token_id": None}
    start = 1 if family == "bart" else 0
    return sizes | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "decoder_start_token_id": start}


def _stack() -> dict[str, int]:
    return {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


def tiny_pairs_tokenizer() -> Any:
    """A tokenizer of whole words that ends every text with </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = [*SPECIAL, "translate", "say", *PAIRS, *PAIRS.values(), *(word[0] for word in PAIRS.values())]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(dict.fromkeys(tokens))}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=64, padding_side="right"
    )


def tiny_pairs(num_rows: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 2 to 6 words and the same in another language, word by word; no text occurs twice."""
    dice = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < num_rows:
        words = dice.choices(list(PAIRS), k=dice.randint(2, 6))
        rows.setdefault(" ".join(words), " ".join(PAIRS[word] for word in words))
    return list(rows.items())


def write_pairs(path: Path, rows: list[tuple[str, str]], *, names: tuple[str, str] = ("source", "target")) -> Path:
    """Write rows as JSON lines; returns the path."""
    lines = (json.dumps(dict(zip(names, pair, strict=True)), ensure_ascii=False) + "\n" for pair in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_parallel(folder: Path, stem: str, rows: list[tuple[str, str]], *, languages: tuple[str, str] = ("en", "de")) -> Path:
    """Write rows as two files, line by line; returns the first."""
    for side, language in enumerate(languages):
        (folder / f"{stem}.{language}").write_text("".join(f"{pair[side]}\n" for pair in rows), encoding="utf-8")
    return folder / f"{stem}.{languages[0]}"


def pairs_recipe(model: Path, rows: Path, output: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A recipe of 20 steps on one thread in float32, with changes by dotted key."""
    settings = {"task": {"type": "text-to-text", "max_new_tokens": 10, "samples": 2, "written_rows": 8}, "optim.learning_rate": 1e-2}
    return tiny.tiny_recipe(model, rows, output, settings | dict(changes or {}))
