"""Models that fill masked words in: started from a pretrained encoder, saved to a folder, loaded from it again.

V tokens of the model, K new ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.models.fewer_layers import load_with_layers
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.section import ModelSection


def start_masked(section: ModelSection, tokenizer: Any) -> Loaded:
    """Return an encoder with its head for masked words, and which parameters of the head are new and its own.

    The bias of the vocabulary is not named among them: it stands beside the table of words, which is not new.

    Args:
        section: Which model.
        tokenizer: Perhaps with tokens that the model does not have.

    Raises:
        ConfigError: if the model is no encoder that transformers knows with such a head, or the section asks for another head.
        SetupError: if it cannot be loaded, or its tokenizer has no mask.
    """
    from transformers import AutoModelForMaskedLM

    from luthier.models.vocabulary import grow_embeddings

    if not section.head.is_own:
        what = "the head is that of the model for masked words: there is nothing to pool, and no hidden layer between"
        raise ConfigError([Fault("model.head", what, "leave model.head.pooling and model.head.hidden out")])
    config = load_config(section.path)
    require_masked(section.path, config, tokenizer)
    quiet_transformers()
    loaded = load_with_layers(AutoModelForMaskedLM, section, config)
    named = dict(loaded.model.named_parameters())
    new = {name for name in loaded.new & named.keys() if named[name].shape != (config.vocab_size,)}
    return Loaded(loaded.model, frozenset(new) | grow_embeddings(loaded.model, len(tokenizer)))


def load_masked(folder: Path) -> Any:
    """Return the model saved in a folder, in evaluation mode."""
    from transformers import AutoModelForMaskedLM

    return load_model(AutoModelForMaskedLM, str(folder), load_config(str(folder))).model.eval()


def save_masked(model: Any, folder: Path) -> None:
    """Write a model so that plain transformers loads it, new tokens and all."""
    settle(model)
    model.save_pretrained(folder)


def settle(model: Any) -> None:
    """Make one plain table of the old and the new tokens, for reading and for writing; does nothing where there are no new ones."""
    import torch
    from torch import nn

    from luthier.models.grown_embedding import GrownEmbedding

    grown = model.get_input_embeddings()
    if not isinstance(grown, GrownEmbedding):
        return
    num_old, new = len(grown.weight), grown.new.detach().clone()
    plain = nn.Embedding.from_pretrained(grown.weight, freeze=False, padding_idx=grown.padding_idx)
    plain.weight = grown.weight
    model.set_input_embeddings(plain)
    model.resize_token_embeddings(num_old + len(new), mean_resizing=False)
    head = model.get_output_embeddings()
    with torch.no_grad():
        for table in (model.get_input_embeddings(), head):
            table.weight[num_old:] = new
        if head.bias is not None:
            head.bias[num_old:] = 0


def require_masked(path: str, config: Any, tokenizer: Any) -> None:
    """Refuse a model that cannot fill masked words in.

    Raises:
        ConfigError: if transformers has no such head for it, or it writes what it reads again.
        SetupError: if its tokenizer has no mask.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as READERS

    if config.model_type not in READERS or getattr(config, "is_encoder_decoder", False):
        what = f"{path} ({config.model_type}) does not fill masked words in"
        raise ConfigError(
            [Fault("model.path", what, "name an encoder, such as bert-base-uncased; a decoder learns by task=text-generation")]
        )
    if tokenizer.mask_token_id is None:
        fix = "name a model with one, or set mask_token in its tokenizer_config.json"
        raise SetupError(f"the tokenizer of {path} has no mask token", where="model.path", fix=fix)
