"""Tiny fast tokenizers of every kind that marks words in a way of its own, made here; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tiny
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
SENTENCES = ["the parcel was late again", "my card was charged twice this monday", "they locked the account and reset the password"] * 3
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def wordpiece() -> Any:
    """`parcel ##s`: a prefix marks what goes on; types 0 and 1 tell pairs apart."""
    return tiny._tokenizer(tiny.tiny_vocabulary())


def byte_level() -> Any:
    """`my Ġparcel`: a mark stands for the space before a word, so the first word has none."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(SENTENCES, trainer)
    return finished(backend, pair="<s> $A </s> </s> $B </s>")


def sentencepiece() -> Any:
    """`▁my ▁parcel`, with pieces of several Chinese characters; the two texts of a pair are told apart by their types alone."""
    words = ["▁my", "▁parcel", "▁the", "el", "们", "我们", "，", "▁", *LETTERS, "é", "🙂", "我", "你", "是", "ok", "s", "▁s"]
    backend = Tokenizer(models.Unigram([*((token, 0.0) for token in SPECIAL), *((word, -float(len(words))) for word in words)], unk_id=1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return finished(backend, pair="<s> $A $B:1 </s>:1")


def byte_fallback() -> Any:
    """`▁ m y`, as Llama does it: characters that are not known are bytes, `<0xE6>`."""
    tokens = [*SPECIAL, "▁", *LETTERS, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return finished(backend, pair="<s> $A </s> $B:1 </s>:1")


def suffixed() -> Any:
    """`par cel</w>`: a suffix marks what ends."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=SPECIAL, initial_alphabet=[*LETTERS, "é", "🙂"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator([*SENTENCES, " ".join([*LETTERS, "é", "🙂"])], trainer)
    return finished(backend, pair="<s> $A </s> $B:1 </s>:1")


def finished(backend: Tokenizer, *, pair: str) -> Any:
    """The tokenizer as transformers knows it, with `<s> text </s>`."""
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>")


KINDS: dict[str, Callable[[], Any]] = {
    "wordpiece": wordpiece,
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "byte-fallback": byte_fallback,
    "suffixed": suffixed,
}
