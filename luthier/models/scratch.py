"""A model that writes, built from nothing: an architecture of transformers by its name, sized by the tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from luthier.core import files
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.names import did_you_mean
from luthier.models import pretrained
from luthier.models.section import ModelSection

END_TOKENS = ("<|endoftext|>", "</s>", "<eos>")
NOT_TO_CHOOSE = frozenset({"transformers_version", "architectures", "id2label", "label2id", "problem_type", "is_encoder_decoder", "dtype"})
Kind = Literal["causal", "encoder-decoder"]


def scratch_config(scratch: dict[str, Any], tokenizer: Any, *, kind: Kind | None = "causal") -> Any:
    """Return the config that a recipe describes; the vocabulary and the special tokens are the tokenizer's.

    Args:
        scratch: `architecture`, and fields of its transformers config.
        tokenizer: Whose tokens the model reads and writes.
        kind: What the architecture must be; None: either.

    Raises:
        ConfigError: if the architecture or a field is unknown, or the fields do not fit each other.
    """
    from transformers import AutoConfig

    name, known = scratch["architecture"], _architectures(kind)
    if name not in known:
        what = f"no {kind or 'writing'} architecture '{name}'"
        raise ConfigError([Fault("model.scratch.architecture", what, did_you_mean(name, known))])
    fields = _fields_of(type(AutoConfig.for_model(name)))
    unknown = [key for key in scratch if key != "architecture" and key not in fields]
    if unknown:
        raise ConfigError([Fault(f"model.scratch.{key}", f"{name} has no such field", did_you_mean(key, fields)) for key in unknown])
    if int(scratch.get("vocab_size", len(tokenizer))) < len(tokenizer):
        what = f"got {scratch['vocab_size']}, but the tokenizer has {len(tokenizer)} tokens"
        raise ConfigError([Fault("model.scratch.vocab_size", what, "leave it out")])
    chosen = {key: value for key, value in scratch.items() if key != "architecture"}
    special = {f"{which}_token_id": getattr(tokenizer, f"{which}_token_id") for which in ("bos", "eos", "pad")}
    try:
        config = AutoConfig.for_model(name, **{"vocab_size": len(tokenizer), **special, **chosen})
    except Exception as error:  # whatever the config class raises of values that do not fit
        raise ConfigError([Fault("model.scratch", f"{name} cannot be built: {str(error).strip().splitlines()[0]}")]) from error
    if kind == "encoder-decoder":
        _begin_and_end(config, type(config)(), tokenizer)
    return config


def open_words(section: ModelSection) -> Any:
    """Return the tokenizer of a model section: the model's own, or the one that is named for a model from nothing.

    Raises:
        SetupError: if it cannot be loaded, or does not know an end of text.
    """
    if section.tokenizer is None:
        return pretrained.load_tokenizer(section.path)
    folder = Path(section.tokenizer).expanduser()
    is_bare = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file() and not (folder / "tokenizer.json").is_file()
    tokenizer = _byte_pairs(folder) if is_bare else pretrained.open_tokenizer(str(folder) if folder.is_dir() else section.tokenizer)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def words_fingerprint(section: ModelSection) -> str:
    """Return a sha256 that changes with the tokenizer's files; of the name alone for a hub id."""
    endings = (".json", ".txt", ".model", ".jinja")
    if section.tokenizer is None:
        return pretrained.fingerprint(section.path, endings=endings)
    folder = Path(section.tokenizer).expanduser()
    found = sorted(file for file in folder.iterdir() if file.suffix in endings) if folder.is_dir() else []
    text = "".join(f"{file.name} {files.sha256_file(file)}" for file in found) or section.tokenizer
    return hashlib.sha256(text.encode()).hexdigest()


def _architectures(kind: Kind | None) -> list[str]:
    from transformers.models.auto import modeling_auto

    causal, both_ways = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return list({"causal": causal, "encoder-decoder": both_ways}.get(kind or "", {**causal, **both_ways}))


def _begin_and_end(config: Any, usual: Any, tokenizer: Any) -> None:
    """Let the decoder begin as its family does: with the end of text, as BART, or with padding, as T5 and Marian."""
    begins_with_end = getattr(usual, "decoder_start_token_id", None) == usual.eos_token_id
    config.decoder_start_token_id = tokenizer.eos_token_id if begins_with_end else tokenizer.pad_token_id
    if getattr(usual, "forced_eos_token_id", None) is not None:
        config.forced_eos_token_id = tokenizer.eos_token_id


def _fields_of(cls: Any) -> list[str]:
    import dataclasses

    own = {field.name for field in dataclasses.fields(cls)}
    return sorted((own | set(cls.attribute_map)) - NOT_TO_CHOOSE)


def _byte_pairs(folder: Path) -> Any:
    """Return the byte-level BPE tokenizer of a vocab.json and a merges.txt, as GPT-2 and BART have them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = files.read_json(folder / "vocab.json")
    end = next((token for token in END_TOKENS if token in words), None)
    if end is None:
        known = ", ".join(END_TOKENS)
        raise SetupError(f"vocab.json in {folder} has no end of text ({known})", where="model.tokenizer", fix="save it with tokenizer.json")
    backend = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    named = {"bos_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, **{k: token for k, token in named.items() if token in words})
