"""Models that say something of single tokens: started from a pretrained one, saved to a folder, loaded from it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import ConfigError, Fault
from luthier.models.fewer_layers import load_with_layers
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.section import ModelSection

DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "summary_last_dropout", "cls_dropout")


def start_token_head(section: ModelSection, outputs: Sequence[str]) -> Loaded:
    """Return a pretrained model with a linear layer over every token, one output for each name; it starts at 0.

    Two heads on the same states are two groups of outputs; a head on two tokens is a group for each, summed.

    Args:
        section: Which model.
        outputs: Names of the outputs, in their order; plain transformers shows them as `id2label`.

    Raises:
        ConfigError: if a head of another shape is wanted.
        SetupError: if the model cannot be loaded, or is of no family that tells tokens apart.
    """
    from transformers import AutoModelForTokenClassification

    from luthier.models.old_head import begin_head

    if not section.head.is_own:
        what = "the head reads single tokens: there is nothing to pool, and no hidden layer between"
        raise ConfigError([Fault("model.head", what, "leave model.head.pooling and model.head.hidden out")])
    names = dict(enumerate(outputs))
    changes = {"num_labels": len(names), "id2label": names, "label2id": {name: index for index, name in names.items()}}
    config = load_config(section.path, **changes)
    if section.head.dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, section.head.dropout)
    loaded = load_with_layers(AutoModelForTokenClassification, section, config)
    theirs = load_config(section.path).id2label
    if [theirs.get(index) for index in names] == list(outputs) and not loaded.new:
        return loaded
    new = begin_head(loaded.model, loaded.new, len(names))
    _zero_last(loaded.model, new, len(names))
    return Loaded(loaded.model, new)


def save_token_head(model: Any, folder: Path) -> None:
    """Write a model so that plain transformers loads it as a token classifier."""
    from luthier.models.vocabulary import settle_embeddings

    settle_embeddings(model)
    model.save_pretrained(folder)


def load_token_head(folder: Path) -> Any:
    """Return the model saved in `folder`, in evaluation mode."""
    from transformers import AutoModelForTokenClassification

    quiet_transformers()
    return load_model(AutoModelForTokenClassification, str(folder), load_config(str(folder))).model.eval()


def _zero_last(model: Any, new: frozenset[str], num_outputs: int) -> None:
    """Let the new matrix with a row for each output start at 0."""
    import torch

    matrices = [p for name, p in model.named_parameters() if name in new and p.ndim == 2 and p.shape[0] == num_outputs]
    if matrices:
        with torch.no_grad():
            matrices[-1].zero_()
