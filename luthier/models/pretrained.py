"""Load pretrained models and tokenizers: hub ids and folders, safetensors only, never the model's own code."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from luthier.core import hub
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.files import sha256_file
from luthier.models import embedded

T = TypeVar("T")
FINGERPRINTED = (".json", ".txt", ".model", ".safetensors")
OLD_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "model.ckpt.index")


@dataclass(frozen=True)
class Loaded:
    """A model with the names of the parameters that were not in its files and start from nothing."""

    model: Any
    new: frozenset[str]


def locate(path: str) -> str:
    """Return where a model is: an existing folder, or the hub id as it is.

    Args:
        path: A folder, a hub id, or the name of the embedded default.

    Raises:
        SetupError: if it is a folder without a model in safetensors, or the embedded default is not installed.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if path in embedded.NAMES:
        found = embedded.folder()
        if found is not None:
            return str(found)
        if path == embedded.NAMES[0]:
            raise SetupError("the embedded default all-MiniLM-L6-v2 is not installed", where="model.path", fix=embedded.INSTALL)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise SetupError(
            f"no such model folder: {path}", where="model.path", fix="give an existing folder or a hub id such as bert-base-uncased"
        )
    return path


def load_tokenizer(path: str) -> Any:
    """Return the fast tokenizer of a model.

    Raises:
        SetupError: if it cannot be loaded.
    """
    tokenizer = open_tokenizer(locate(path), called=path)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def open_tokenizer(where: str | Path, *, called: str | None = None) -> Any:
    """Return the tokenizer saved in a folder (or on the hub), as it is.

    Args:
        where: Folder or hub id.
        called: What to call it in messages.

    Raises:
        SetupError: if it cannot be loaded, or has no fast form.
    """
    from transformers import AutoTokenizer

    called = called or str(where)
    tokenizer = _guarded(lambda: AutoTokenizer.from_pretrained(str(where), **_safely(where)), called, "a tokenizer")
    if not tokenizer.is_fast:
        raise SetupError(f"the tokenizer of {called} has no fast form", where="model.path", fix="use a model with a tokenizer.json")
    return tokenizer


def load_config(path: str, **changes: Any) -> Any:
    """Return the config of a model, with some values changed.

    Raises:
        SetupError: if it cannot be loaded.
    """
    from transformers import AutoConfig

    where = locate(path)
    quiet_transformers()
    return _guarded(lambda: AutoConfig.from_pretrained(where, **_safely(where), **changes), path, "a config")


def load_model(auto_class: Any, path: str, config: Any, *, quantize: str | None = None) -> Loaded:
    """Return a model in float32 and which of its parameters are new.

    Args:
        auto_class: A transformers class with `from_pretrained`, such as AutoModelForSequenceClassification.
        path: Folder or hub id.
        config: The config to build it with.
        quantize: nf4 or int8 for the matrices of its body, or None.

    Raises:
        SetupError: if the model has no safetensors, does not fit the class, or bitsandbytes is wanted and missing.
    """
    from luthier.models.outline import outlined_model, outlining

    if outlining():
        return Loaded(*outlined_model(auto_class, config))
    quiet_transformers()

    if quantize is not None:
        return _load_quantized(auto_class, path, config, quantize)
    return _load(auto_class, path, config)


def _load_quantized(auto_class: Any, path: str, config: Any, kind: str) -> Loaded:
    """Return a model whose body is quantised; what starts from nothing in it is not, so that it can be trained."""
    from luthier.models.quantized import kept_whole, layers_in, settings_of, settle

    skipped = kept_whole(auto_class, config, kind)
    loaded = _load(auto_class, path, config, quantization_config=settings_of(kind, skipped))
    started = {name.rpartition(".")[0] for name in loaded.new} & layers_in(loaded.model).keys()
    if started:
        loaded = _load(auto_class, path, config, quantization_config=settings_of(kind, [*skipped, *sorted(started)]))
    if not layers_in(loaded.model):
        what = f"no matrix of this {config.model_type} would be held in {kind}: transformers keeps some whole, and the others do not fit"
        raise ConfigError([Fault("model.quantize", what, "leave it out" if kind == "int8" else "use model.quantize=int8, or leave it out")])
    settle(loaded.model)
    return loaded


def _load(auto_class: Any, path: str, config: Any, **others: Any) -> Loaded:
    import torch

    where = locate(path)

    def load() -> tuple[Any, dict[str, Any]]:
        return auto_class.from_pretrained(
            where,
            config=config,
            use_safetensors=True,
            **_safely(where),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **others,
        )

    model, info = _guarded(load, path, "a model")
    mismatched = {entry[0] for entry in info.get("mismatched_keys", ())}
    return Loaded(model, frozenset(info["missing_keys"]) | mismatched)


def max_length(tokenizer: Any, config: Any) -> int:
    """Return the longest input in tokens that tokenizer and model both take; 512 where neither says."""
    limits = [
        limit
        for limit in (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None), getattr(config, "n_positions", None))
        if isinstance(limit, int) and 0 < limit < 1_000_000
    ]
    longest = min(limits, default=512)
    padding_offset = getattr(config, "pad_token_id", 0) or 0
    is_roberta_like = getattr(config, "model_type", "") in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "mpnet",
        "xlm-roberta-xl",
        "data2vec-text",
    )
    return longest - padding_offset - 1 if is_roberta_like and longest == config.max_position_embeddings else longest


def fingerprint(path: str, *, endings: tuple[str, ...] = FINGERPRINTED) -> str:
    """Return a sha256 that changes when files of the model change; of the name alone for a hub id.

    Args:
        path: Folder or hub id.
        endings: Endings of the files that count; without `.safetensors` it is the tokenizer's and the config's fingerprint.
    """
    return fingerprint_of(path, file_hashes(path, endings=endings))


def file_hashes(path: str, *, endings: tuple[str, ...] = FINGERPRINTED) -> dict[str, str]:
    """Return the sha256 of each file of a model folder, by name; nothing for a hub id."""
    where = Path(locate(path))
    if not where.is_dir():
        return {}
    return {file.name: sha256_file(file) for file in sorted(where.iterdir()) if file.suffix in endings and file.is_file()}


def fingerprint_of(path: str, hashes: dict[str, str]) -> str:
    """Return the fingerprint that `fingerprint` would, from what `file_hashes` gave."""
    digest = hashlib.sha256(b"" if hashes else path.encode())
    for name, content in hashes.items():
        digest.update(f"{name} {content}".encode())
    return digest.hexdigest()


def quiet_transformers() -> None:
    """Keep transformers from printing load reports and bars; what matters is said by us."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _safely(where: str | Path) -> dict[str, bool]:
    """Return the options that keep code from running, and the hub from being asked where it cannot answer."""
    return {"trust_remote_code": False, "local_files_only": Path(where).is_dir() or hub.is_offline()}


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise SetupError(
            f"{folder} is not a model folder: it has no config.json", where="model.path", fix="give a folder saved with save_pretrained"
        )
    if any(folder.glob("*.safetensors")):
        return
    old = [name for name in OLD_WEIGHTS if (folder / name).is_file()]
    found = f"only {', '.join(old)}, which can run code when loaded" if old else "no weights"
    raise SetupError(
        f"the model folder {folder} has no .safetensors file ({found})",
        where="model.path",
        fix="convert it once, where you trust it: AutoModel.from_pretrained(folder).save_pretrained(new_folder)",
    )


def _guarded(load: Callable[[], T], path: str, what: str) -> T:
    from safetensors import SafetensorError

    try:
        return load()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _explained(error, path, what) from error


def _explained(error: Exception, path: str, what: str) -> SetupError:
    text = str(error)
    if Path(path).is_dir() or path in embedded.NAMES:
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        return SetupError(f"{what} cannot be loaded from {path}: {first}", where="model.path", fix="check that the folder is complete")
    if "safetensors" in text:
        return SetupError(f"{path} has no weights in safetensors", where="model.path", fix="choose a model with a model.safetensors")
    reason = "HF_HUB_OFFLINE is set" if hub.switched_off() else "no hub can be reached from here, or it has no such model"
    return SetupError(
        f"no folder '{path}' here, and {what} could not be fetched from the hub: {reason}",
        where="model.path",
        fix="give a folder saved with save_pretrained, or all-MiniLM-L6-v2, the embedded default",
    )
