"""Decoders that write text: started from a pretrained model or from nothing, saved to a folder, loaded from it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.models.fewer_layers import load_with_layers
from luthier.models.outline import outlining
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.scratch import scratch_config
from luthier.models.section import ModelSection
from luthier.models.vocabulary import add_rows


def decoder_config(section: ModelSection, tokenizer: Any, *, may_grow: bool = False) -> Any:
    """Return the config of the decoder that a section names.

    Args:
        section: Which model.
        tokenizer: Its tokenizer.
        may_grow: Whether the tokenizer may have more tokens than the model, because some were added to it.

    Raises:
        ConfigError: if it is an encoder, or cannot be built.
        SetupError: if it cannot be loaded, or has fewer tokens than its tokenizer.
    """
    if section.scratch is not None:
        return scratch_config(section.scratch, tokenizer)
    config = load_config(section.path)
    _require_decoder(section.path, config)
    if tokenizer.eos_token_id is None:
        raise SetupError(f"the tokenizer of {section.path} has no end of text", where="model.path", fix="set eos_token in its config")
    if len(tokenizer) > config.vocab_size and not may_grow:
        what = f"the tokenizer of {section.path} has {len(tokenizer)} tokens, the model {config.vocab_size}"
        raise SetupError(what, where="model.path", fix="use the tokenizer that the model was trained with")
    return config


def start_decoder(section: ModelSection, tokenizer: Any) -> Loaded:
    """Return a decoder with its vocabulary head: pretrained, or with random weights from the seed of the run.

    Tokens that were added to the tokenizer have rows of their own in embedding and head, which start from the mean of the others.
    """
    from transformers import AutoModelForCausalLM

    config = decoder_config(section, tokenizer, may_grow=True)
    quiet_transformers()
    if section.scratch is not None:
        return Loaded(AutoModelForCausalLM.from_config(config), frozenset())
    if len(tokenizer) > config.vocab_size and outlining():
        config.vocab_size = len(tokenizer)
    loaded = load_with_layers(AutoModelForCausalLM, section, config)
    if len(tokenizer) > config.vocab_size:
        if section.quantize is not None:
            what = "the chat template adds tokens to the vocabulary, and a model in 4 or 8 bits keeps the one it has"
            raise ConfigError([Fault("model.quantize", what, "model.extend_vocabulary=false makes the marks plain text")])
        add_rows(loaded.model, len(tokenizer))
    return loaded


def load_decoder(folder: Path) -> Any:
    """Return the decoder saved in a folder."""
    from transformers import AutoModelForCausalLM

    return load_model(AutoModelForCausalLM, str(folder), load_config(str(folder))).model


def _require_decoder(path: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as WRITERS
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as READERS

    if config.model_type in WRITERS and config.model_type not in READERS:
        return
    fix = "name a decoder such as model.path=gpt2, or build one: model.scratch.architecture=gpt2 model.tokenizer=..."
    raise ConfigError([Fault("model.path", f"{path} ({config.model_type}) reads texts and cannot write them", fix)])
