"""Models that point at the first and the last token of an answer: started from a pretrained model, loaded from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ConfigError, Fault
from luthier.models.fewer_layers import load_with_layers
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.section import ModelSection


def start_span_model(section: ModelSection) -> Loaded:
    """Return a pretrained model with the head of its family for spans.

    Args:
        section: Which model.

    Raises:
        ConfigError: if a head is asked for that has no tokens to point at.
        SetupError: if the model cannot be loaded or has no head for spans.
    """
    from transformers import AutoModelForQuestionAnswering

    if not section.head.is_own:
        what = "a span is found token by token, and model.head.pooling and hidden make one vector of a whole text"
        raise ConfigError([Fault("model.head", what, "leave pooling and hidden out")])
    loaded = load_with_layers(AutoModelForQuestionAnswering, section, load_config(section.path))
    if section.head.dropout is not None:
        _set_dropout(loaded.model, section.head.dropout)
    return loaded


def load_span_model(folder: Path) -> Any:
    """Return the model saved in `folder`, in evaluation mode."""
    from transformers import AutoModelForQuestionAnswering

    quiet_transformers()
    return load_model(AutoModelForQuestionAnswering, str(folder), load_config(str(folder))).model.eval()


def save_span_model(model: Any, folder: Path) -> None:
    """Write the model so that plain transformers loads it."""
    from luthier.models.vocabulary import settle_embeddings

    settle_embeddings(model)
    model.save_pretrained(folder)


def _set_dropout(model: Any, dropout: float) -> None:
    """Give the head another dropout."""
    from torch import nn

    inside = {id(module) for module in model.base_model.modules()}
    found = [module for module in model.modules() if isinstance(module, nn.Dropout) and id(module) not in inside]
    if dropout and not found:
        what = f"the head for spans of a {model.config.model_type} has no dropout"
        raise ConfigError([Fault("model.head.dropout", what, "leave it out")])
    for module in found:
        module.p = dropout
