"""A BERT of two layers and width 32 with a handmade vocabulary, and labelled rows that it learns in seconds.

Words imply the class, so a few dozen steps bring the loss down; nothing is downloaded, and a seed decides every weight and row.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILLERS = tuple(
    "i my the a it is was and but we you they this that please hello today again still very so now from with for to on of in at "
    "about since monday week number could would should tell me help thanks".split()
)
WORDS_BY_CLASS: dict[str, tuple[str, ...]] = {
    "delivery": tuple("parcel courier late shipping arrived tracking doorstep warehouse driver van".split()),
    "payment": tuple("card refund invoice charged bank money price fee twice receipt".split()),
    "login": tuple("password account locked email username code reset screen access blocked".split()),
}
CHINESE = "我你他的是不了在有这个们来到时要就以会可"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,!?'\"-:;()#"


def tiny_vocabulary() -> list[str]:
    """A few hundred WordPiece tokens: every word of the rows, letters and digits for the rest, some Chinese."""
    words = [*FILLERS, *(word for words in WORDS_BY_CLASS.values() for word in words)]
    tokens = [*SPECIAL, *PUNCTUATION, *CHINESE, *LETTERS, *(f"##{letter}" for letter in LETTERS), *words]
    return list(dict.fromkeys(tokens))


def make_tiny_model(folder: Path, *, width: int = 32, dropout: float = 0.1, seed: int = 0) -> Path:
    """Write an untrained encoder and its tokenizer as transformers would, in safetensors; returns the folder."""
    import torch
    from transformers import BertConfig, BertModel

    tokens = tiny_vocabulary()
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.05,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = BertModel(config)
    torch.set_rng_state(state)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _tokenizer(tokens).save_pretrained(folder)
    return folder


def _tokenizer(tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    ids = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return BertTokenizerFast(tokenizer_object=backend, model_max_length=64)


def tiny_rows(num_rows: int, *, seed: int = 0, classes: Sequence[str] = tuple(WORDS_BY_CLASS)) -> list[tuple[str, str]]:
    """Texts of 4 to 9 words, three of them telling the class; no text occurs twice."""
    dice = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < num_rows:
        label = classes[len(rows) % len(classes)]
        words = dice.sample(WORDS_BY_CLASS[label], 3) + dice.choices(FILLERS, k=dice.randint(1, 6))
        dice.shuffle(words)
        rows.setdefault(" ".join(words), label)
    return list(rows.items())


def tiny_multi_label_rows(num_rows: int, *, seed: int = 0, separator: str = "|") -> list[tuple[str, str]]:
    """Texts that tell one or two classes at once."""
    dice = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < num_rows:
        labels = dice.sample(sorted(WORDS_BY_CLASS), dice.randint(1, 2))
        words = [word for label in labels for word in dice.sample(WORDS_BY_CLASS[label], 2)] + dice.choices(FILLERS, k=2)
        dice.shuffle(words)
        rows.setdefault(" ".join(words), separator.join(sorted(labels)))
    return list(rows.items())


def tiny_star_rows(num_rows: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Texts with one to five stars: one more for each two words about logins."""
    dice, rows = random.Random(seed), dict[str, str]()
    while len(rows) < num_rows:
        stars = 1 + len(rows) % 5
        words = dice.sample(WORDS_BY_CLASS["login"], 2 * (stars - 1)) + dice.choices(FILLERS, k=2 + 2 * (5 - stars))
        dice.shuffle(words)
        rows.setdefault(" ".join(words), str(stars))
    return list(rows.items())


def write_rows(path: Path, rows: Sequence[Sequence[str]], *, header: Sequence[str] = ("text", "label")) -> Path:
    """Write rows as CSV; returns the path."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return path


def tiny_recipe(model: Path, rows: Path, output: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A recipe of 20 steps on one thread in float32, with changes by dotted key."""
    recipe: dict[str, Any] = {
        "task": "text-classification",
        "model": {"path": str(model)},
        "data": {"train": str(rows), "split": {"test": 0.25}},
        "optim": {"type": "adamw", "learning_rate": 1e-2, "head_learning_rate": 1e-2},
        "schedule": {"type": "linear"},
        "training": {"batch_size": 8, "max_steps": 20, "epochs": 100, "precision": "fp32", "threads": 1, "seed": 0},
        "evaluate": {"resamples": 100},
        "track": {"trackers": []},
        "output": str(output),
    }
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        place = recipe
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return recipe
