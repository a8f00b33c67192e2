"""Encoders whose token states are pooled to one vector of a text; saved so that transformers and sentence-transformers load them.

W texts, T tokens, H width.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import files
from luthier.core.errors import ConfigError, Fault
from luthier.models import pretrained
from luthier.models.fewer_layers import load_with_layers
from luthier.models.pretrained import Loaded, load_config, load_model
from luthier.models.section import Head, ModelSection

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("luthier")
UNREAD = "pooler."
POOLINGS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


def start_encoder(section: ModelSection) -> Loaded:
    """Return a pretrained encoder without a head; a pooler that came with it is read by nobody and stays as it is.

    Args:
        section: Which model, and which of its layers.

    Raises:
        ConfigError: if the section asks for a head or a model from nothing, or the model has a decoder.
        SetupError: if the model cannot be loaded.
    """
    from transformers import AutoModel

    if section.scratch is not None:
        raise ConfigError([Fault("model.scratch", "a model from nothing writes text; it gives no vectors", "leave model.scratch out")])
    if section.head != Head():
        raise ConfigError([Fault("model.head", "a text's vector is pooled from its tokens, without a head", "use task.pooling")])
    config = load_config(section.path)
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError([Fault("model.path", f"{section.path} is an encoder with a decoder", "use an encoder, such as all-MiniLM-L6-v2")])
    loaded = load_with_layers(AutoModel, section, config)
    for name, parameter in loaded.model.named_parameters():
        if name.startswith(UNREAD):
            parameter.requires_grad_(False)
    return Loaded(loaded.model, frozenset(name for name in loaded.new if not name.startswith(UNREAD)))


def own_pooling(path: str) -> str:
    """Return how a model says that it is pooled, in the files of sentence-transformers; mean where it does not say."""
    folder = Path(pretrained.locate(path))
    if not (folder / "modules.json").is_file():
        return "mean"
    modules = files.read_json(folder / "modules.json")
    others = [one["type"].rpartition(".")[2] for one in modules if one["type"].rpartition(".")[2] not in KNOWN_MODULES]
    if others:
        log.warning("%s has layers after its pooling that are left out: %s", path, ", ".join(others))
    places = [folder / one["path"] / "config.json" for one in modules if one["type"].endswith("Pooling")]
    settings = files.read_json(places[0]) if places and places[0].is_file() else {}
    named = [name for name, key in POOLINGS.items() if settings.get(key) or settings.get("pooling_mode") == name]
    return named[0] if len(named) == 1 else "mean"


def pooled(states_WTH: Tensor, mask_WT: Tensor, pooling: str) -> Tensor:
    """Return the vector of each text, `(W, H)`, in float32.

    Args:
        states_WTH: The encoder's last states; virtual tokens that an adapter puts before a text are not pooled.
        mask_WT: 1 for tokens, 0 for padding.
        pooling: mean, cls or max.
    """
    import torch

    from luthier.models.pooled import POOLINGS as POOL

    states_WTH = states_WTH[:, -mask_WT.shape[1] :]
    with torch.autocast(states_WTH.device.type, enabled=False):
        vectors_WH: Tensor = POOL[pooling](states_WTH.float(), mask_WT)
    return vectors_WH


def save_encoder(model: Any, folder: Path, *, pooling: str, normalise: bool, max_length: int) -> None:
    """Write an encoder, and beside it what sentence-transformers reads.

    Args:
        model: A model of transformers.
        folder: Where to.
        pooling: mean, cls or max.
        normalise: Whether vectors have length 1.
        max_length: Longest text in tokens.
    """
    from luthier.models.vocabulary import settle_embeddings

    settle_embeddings(model)
    model.save_pretrained(folder)
    names = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    places = ["", *(f"{number}_{name}" for number, name in enumerate(names) if number)]
    kinds = [f"sentence_transformers.models.{name}" for name in names]
    modules = [{"idx": n, "name": str(n), "path": place, "type": kind} for n, (place, kind) in enumerate(zip(places, kinds, strict=True))]
    files.write_json(folder / "modules.json", modules)
    files.write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    files.write_json(
        folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    width = {"word_embedding_dimension": model.config.hidden_size}
    files.write_json(folder / "1_Pooling" / "config.json", width | {key: name == pooling for name, key in POOLINGS.items()})
    if normalise:
        (folder / "2_Normalize").mkdir(exist_ok=True)
        files.write_json(folder / "2_Normalize" / "config.json", {})


def load_encoder(folder: Path) -> Any:
    """Return the encoder saved in `folder`, in evaluation mode."""
    from transformers import AutoModel

    return load_model(AutoModel, str(folder), load_config(str(folder))).model.eval()
