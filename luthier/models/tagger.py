"""Token classifiers, with or without a chain over their tags: started from a pretrained model, saved to a folder, loaded from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.errors import ConfigError, Fault
from luthier.models.classifier import last_layer_of, put_in_order
from luthier.models.fewer_layers import load_with_layers
from luthier.models.old_head import begin_head
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.section import ModelSection

CHAIN_WEIGHTS = "luthier_crf.safetensors"


def start_tagger(section: ModelSection, labels: tuple[str, ...], *, chain: bool) -> Loaded:
    """Return a pretrained model with a head for the tags of each token; the last layer starts at 0, so all tags start equal.

    Args:
        section: Which model.
        labels: Names of the tags, in the order of the scores.
        chain: Whether a `crf` module with a chain over the tags stands beside the head.

    Raises:
        ConfigError: if another head than the model family's own is wanted.
        SetupError: if the model cannot be loaded or cannot classify tokens.
    """
    import torch
    from transformers import AutoModelForTokenClassification

    if not section.head.is_own:
        raise ConfigError([Fault("model.head", "pools the tokens of a text into one vector, and here each has tags", "leave it out")])
    numbered = {label: index for index, label in enumerate(labels)}
    config = load_config(section.path, num_labels=len(labels), id2label=dict(enumerate(labels)), label2id=numbered)
    for name in ("classifier_dropout", "classifier_dropout_prob"):
        if section.head.dropout is not None and hasattr(config, name):
            setattr(config, name, section.head.dropout)
    loaded = load_with_layers(AutoModelForTokenClassification, section, config)
    model, new = loaded.model, loaded.new
    if not new:
        theirs = load_config(section.path).id2label
        if sorted(theirs.values()) == sorted(labels):
            put_in_order(model, theirs, labels)
        else:
            new = begin_head(model, new, len(labels))
    last = last_layer_of(loaded)
    if last is not None:
        with torch.no_grad():
            dict(model.named_parameters())[last].zero_()
    if chain:
        from luthier.models.linear_chain import LinearChain

        model.crf = LinearChain(len(labels))
        new |= {f"crf.{name}" for name, _ in model.crf.named_parameters()}
    return Loaded(model, frozenset(new))


def save_tagger(model: Any, folder: Path) -> None:
    """Write a model so that plain transformers loads it; a chain stands beside it in a file of its own."""
    from safetensors.torch import save_file

    from luthier.models.vocabulary import settle_embeddings

    settle_embeddings(model)
    chain = getattr(model, "crf", None)
    if chain is None:
        model.save_pretrained(folder)
        return
    save_file({name: tensor.detach().contiguous() for name, tensor in chain.state_dict().items()}, folder / CHAIN_WEIGHTS)
    del model.crf
    try:
        model.save_pretrained(folder)
    finally:
        model.crf = chain


def load_tagger(folder: Path) -> Any:
    """Return the model saved in `folder`, with its chain where it has one, in evaluation mode."""
    from safetensors.torch import load_file
    from transformers import AutoModelForTokenClassification

    quiet_transformers()
    path = str(folder)
    model = load_model(AutoModelForTokenClassification, path, load_config(path)).model
    if (folder / CHAIN_WEIGHTS).is_file():
        from luthier.models.linear_chain import LinearChain

        model.crf = LinearChain(model.config.num_labels)
        model.crf.load_state_dict(load_file(folder / CHAIN_WEIGHTS))
    return model.eval()
