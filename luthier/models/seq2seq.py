"""Encoder-decoders that read one text and write another: started from a pretrained model or from nothing, and loaded from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.models.fewer_layers import load_with_layers
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.scratch import scratch_config
from luthier.models.section import ModelSection


def seq2seq_config(section: ModelSection, tokenizer: Any) -> Any:
    """Return the config of the encoder-decoder that a section names.

    Raises:
        ConfigError: if it is none, or cannot be built.
        SetupError: if it cannot be loaded, or has fewer tokens than its tokenizer.
    """
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:
        tokenizer.eos_token = tokenizer.sep_token  # as that of BERT
    if tokenizer.eos_token_id is None:
        raise SetupError(f"the tokenizer of {section.words} has no end of text", where="model", fix="set eos_token in its config")
    if section.scratch is not None:
        return scratch_config(section.scratch, tokenizer, kind="encoder-decoder")
    require_seq2seq(section)
    config = load_config(section.path)
    if len(tokenizer) > config.vocab_size:
        what = f"the tokenizer of {section.path} has {len(tokenizer)} tokens, the model {config.vocab_size}"
        raise SetupError(what, where="model.path", fix="use the tokenizer that the model was trained with")
    return config


def require_seq2seq(section: ModelSection) -> None:
    """Refuse a pretrained model that is no encoder-decoder.

    Raises:
        ConfigError: if it is none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if section.scratch is not None:
        return
    kind = load_config(section.path).model_type
    if kind not in KNOWN:
        fix = "name one such as model.path=google-t5/t5-small, or build one: model.scratch.architecture=t5 model.tokenizer=..."
        raise ConfigError([Fault("model.path", f"{section.path} ({kind}) is no encoder-decoder", fix)])


def start_seq2seq(section: ModelSection, tokenizer: Any) -> Loaded:
    """Return an encoder-decoder with its vocabulary head: pretrained, or with random weights from the seed of the run."""
    from transformers import AutoModelForSeq2SeqLM

    config = seq2seq_config(section, tokenizer)
    quiet_transformers()
    if section.scratch is not None:
        return Loaded(AutoModelForSeq2SeqLM.from_config(config), frozenset())
    return load_with_layers(AutoModelForSeq2SeqLM, section, config)


def load_seq2seq(folder: Path) -> Any:
    """Return the encoder-decoder saved in a folder."""
    from transformers import AutoModelForSeq2SeqLM

    return load_model(AutoModelForSeq2SeqLM, str(folder), load_config(str(folder))).model
