"""Sequence classifiers: started from a pretrained model, saved to a folder, loaded from it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.models.fewer_layers import load_with_layers
from luthier.models.pretrained import Loaded, load_config, load_model, quiet_transformers
from luthier.models.section import Head, ModelSection

HEAD_WEIGHTS = "luthier_head.safetensors"
HEAD_SETTINGS = "luthier_head.json"


def start_classifier(section: ModelSection, labels: tuple[str, ...], *, multi_label: bool, cosine_scale: float | None = None) -> Loaded:
    """Return a pretrained model with a head for `labels`; the last layer starts at 0, so all classes start equal.

    Args:
        section: Which model and head.
        labels: Names of the classes, in the order of the scores.
        multi_label: Whether each label is a yes or no of its own.
        cosine_scale: Let the scores be cosines times this, from a head of our own that starts at random; none: any scores.

    Raises:
        SetupError: if the model cannot be loaded or cannot classify sequences.
    """
    from transformers import AutoModelForSequenceClassification

    if not section.head.is_own or cosine_scale is not None:
        return _start_pooled(section, len(labels), cosine_scale)
    config = load_config(section.path, **_label_settings(labels, multi_label))
    if section.head.dropout is not None:
        for name in ("classifier_dropout", "seq_classif_dropout", "summary_last_dropout", "cls_dropout"):
            if hasattr(config, name):
                setattr(config, name, section.head.dropout)
    loaded = load_with_layers(AutoModelForSequenceClassification, section, config)
    if config.pad_token_id is None and config.eos_token_id is not None:
        loaded.model.config.pad_token_id = config.eos_token_id
    if not loaded.new:
        put_in_order(loaded.model, load_config(section.path).id2label, labels)
    _zero(loaded.model, last_layer_of(loaded))
    return loaded


def last_layer_of(loaded: Loaded) -> str | None:
    """Return the name of the new matrix that gives the class scores, or None where it came with the model."""
    matrices = [
        name
        for name, parameter in loaded.model.named_parameters()
        if name in loaded.new and parameter.ndim == 2 and parameter.shape[0] == loaded.model.config.num_labels
    ]
    return matrices[-1] if matrices else None


def save_classifier(model: Any, folder: Path) -> None:
    """Write a classifier so that plain transformers loads it; a head of our own stands beside the encoder."""
    from safetensors.torch import save_file

    from luthier.models.pooled import PooledClassifier
    from luthier.models.vocabulary import settle_embeddings

    settle_embeddings(model)
    if not isinstance(model, PooledClassifier):
        model.save_pretrained(folder)
        return
    model.encoder.save_pretrained(folder)
    head = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    save_file(head, folder / HEAD_WEIGHTS)
    (folder / HEAD_SETTINGS).write_text(json.dumps(model.settings, indent=2) + "\n", encoding="utf-8")


def load_classifier(folder: Path) -> Any:
    """Return the classifier saved in `folder`, in evaluation mode."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoModelForSequenceClassification

    quiet_transformers()
    path = str(folder)
    if not (folder / HEAD_SETTINGS).is_file():
        return load_model(AutoModelForSequenceClassification, path, load_config(path)).model.eval()
    from luthier.models.pooled import PooledClassifier

    settings = files.read_json(folder / HEAD_SETTINGS)
    encoder = load_model(AutoModel, path, load_config(path)).model
    model = PooledClassifier(encoder, **settings, dropout=0.0)
    missing, unexpected = model.load_state_dict(load_file(folder / HEAD_WEIGHTS), strict=False)
    assert not unexpected and all(name.startswith("encoder.") for name in missing)
    return model.eval()


def _start_pooled(section: ModelSection, num_labels: int, cosine_scale: float | None) -> Loaded:
    from transformers import AutoModel

    from luthier.models.pooled import PooledClassifier

    config = load_config(section.path)
    encoder = load_with_layers(AutoModel, section, config).model
    dropout = section.head.dropout if section.head.dropout is not None else getattr(config, "hidden_dropout_prob", 0.1)
    shape: dict[str, Any] = {"pooling": _pooling(section.head), "hidden": list(section.head.hidden), "num_labels": num_labels}
    model = PooledClassifier(encoder, **shape, dropout=dropout, cosine_scale=cosine_scale)
    if cosine_scale is None:  # 0 has no direction
        _zero(model, f"head.{len(model.head) - 1}.weight")
    new = frozenset(name for name, _ in model.named_parameters() if not name.startswith("encoder."))
    return Loaded(model, new)


def _pooling(head: Head) -> str:
    return "cls" if head.pooling == "auto" else head.pooling


def _label_settings(labels: tuple[str, ...], multi_label: bool) -> dict[str, Any]:
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
    }


def put_in_order(model: Any, theirs: dict[int, str], labels: tuple[str, ...]) -> None:
    """Put the rows of a head that came with the model into the order of our labels, where it has the same ones."""
    import torch

    names = [theirs[index] for index in sorted(theirs)]
    if names == list(labels) or sorted(names) != sorted(labels):
        return
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.out_features == len(labels)]
    order = [names.index(label) for label in labels]
    with torch.no_grad():
        for parameter in layers[-1].parameters():
            parameter.copy_(parameter[order].clone())


def _zero(model: Any, name: str | None) -> None:
    import torch

    if name is not None:
        with torch.no_grad():
            dict(model.named_parameters())[name].zero_()
