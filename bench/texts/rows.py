"""Rows of real data laid ready: cut into training and test, or freed of columns that no reader knows."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TEST_ARTICLES, ARTICLES_SEED = 8, 0
WHOLE = 512  # tokens that the decoder reads
NUM_PIECES = 6000


def stsb(data: Path, folder: Path) -> list[str]:
    """Write score and both texts of each row, and return what names them."""
    for split in ("train", "dev", "test"):
        lines = (data / "stsb" / f"sts-{split}.csv").read_text(encoding="utf-8").splitlines()
        made = folder / f"stsb-{split}.tsv"
        made.write_text("".join("\t".join(line.split("\t")[4:7]) + "\n" for line in lines), encoding="utf-8")
    names = {"train": "train", "validation": "dev", "test": "test"}
    return [*(f"data.{key}={folder}/stsb-{name}.tsv" for key, name in names.items()), "data.label=0", "data.text=1", "data.text_pair=2"]


def squad(data: Path, folder: Path) -> list[str]:
    """Write 40 articles to learn from and 8 to be asked about, drawn once."""
    found = json.loads((data / "squad_v1.1_dev" / "squad_v1.1_dev_rebuilt.json").read_text(encoding="utf-8"))
    articles: list[Any] = list(found["data"])
    random.Random(ARTICLES_SEED).shuffle(articles)
    for name, chosen in (("test", articles[:TEST_ARTICLES]), ("train", articles[TEST_ARTICLES:])):
        (folder / f"squad-{name}.json").write_text(json.dumps({"version": "1.1", "data": chosen}), encoding="utf-8")
    return [f"data.{name}={folder}/squad-{name}.json" for name in ("train", "test")]


def weibo(data: Path, folder: Path) -> list[str]:
    """Write the characters without the digit that says where in a word they stand."""
    for split in ("train", "dev", "test"):
        lines = (data / "weibo_ner_zh" / f"weiboNER_2nd_conll.{split}").read_text(encoding="utf-8").splitlines()
        cells = [line.split("\t") for line in lines]
        said = [f"{cell[0][:-1]}\t{cell[1]}" if len(cell) > 1 else "" for cell in cells]
        (folder / f"weibo-{split}.conll").write_text("\n".join(said) + "\n", encoding="utf-8")
    names = {"train": "train", "validation": "dev", "test": "test"}
    return [f"data.{key}={folder}/weibo-{name}.conll" for key, name in names.items()]


def alpaca(data: Path, folder: Path) -> list[str]:
    """Write the rows that fit, whole, into what the decoder reads."""
    from luthier.models.pretrained import open_tokenizer
    from luthier.tasks.text.templates import rendered

    words = open_tokenizer(str(data / "checkpoints" / "stories260K"))

    def num_tokens(row: dict[str, str]) -> int:
        asked = words(rendered("alpaca", row["instruction"], row["input"], words))["input_ids"]
        return len(asked) + len(words(row["output"], add_special_tokens=False)["input_ids"]) + 1

    rows = json.loads((data / "instruct_demo" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    kept = [row for row in rows if num_tokens(row) <= WHOLE]
    (folder / "alpaca.json").write_text(json.dumps(kept), encoding="utf-8")
    return [f"data.train={folder}/alpaca.json"]


def multi30k_words(data: Path, folder: Path) -> list[str]:
    """Train a tokenizer on the training rows of both languages, and return what names it."""
    texts = [line for name in ("en", "de") for line in gzip.open(data / "multi30k" / f"train.{name}.gz", "rt", encoding="utf-8")]
    return [f"model.tokenizer={_tokenizer(folder / 'multi30k-words', texts)}"]


def scitldr_words(data: Path, folder: Path) -> list[str]:
    """Train a tokenizer on the training rows, and return what names it."""
    rows = [json.loads(line) for line in (data / "scitldr_a" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [text for row in rows for text in (*row["source"], *row["target"])]
    return [f"model.tokenizer={_tokenizer(folder / 'scitldr-words', texts)}"]


def _tokenizer(folder: Path, texts: Iterable[str]) -> Path:
    """Train a unigram tokenizer with the special tokens of T5."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer, made.decoder = normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=NUM_PIECES, special_tokens=special, unk_token="<unk>"))
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    whole = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    whole.save_pretrained(folder)
    return folder
