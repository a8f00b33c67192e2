"""Models that give one number to a text with a choice beside it: started from a pretrained model, and loaded from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ConfigError, Fault
from luthier.models.fewer_layers import load_with_layers
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.section import ModelSection


def start_multiple_choice(section: ModelSection) -> Loaded:
    """Return a pretrained model with a head of one number; a new one starts at 0, so that all choices start equal.

    Args:
        section: Which model.

    Raises:
        ConfigError: if a head of our own is wanted.
        SetupError: if the model cannot be loaded, or its family has no head for choices.
    """
    import torch
    from transformers import AutoModelForMultipleChoice

    if not section.head.is_own:
        what = "multiple-choice has the head of the model family, not one of our own"
        raise ConfigError([Fault("model.head", what, "leave model.head.pooling and model.head.hidden out")])
    config = load_config(section.path)
    if section.head.dropout is not None:
        for name in ("classifier_dropout", "seq_classif_dropout", "summary_last_dropout"):
            if hasattr(config, name):
                setattr(config, name, section.head.dropout)
    loaded = load_with_layers(AutoModelForMultipleChoice, section, config)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name in loaded.new and parameter.ndim == 2 and parameter.shape[0] == 1:
                parameter.zero_()
    return loaded


def load_multiple_choice(folder: Path) -> Any:
    """Return the model saved in `folder`, in evaluation mode."""
    from transformers import AutoModelForMultipleChoice

    quiet_transformers()
    return load_model(AutoModelForMultipleChoice, str(folder), load_config(str(folder))).model.eval()
