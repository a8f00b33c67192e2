"""An adapter that begins with the weights of a trained one."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from torch import nn

from luthier.adapters.injection.taken_up import CONFIG, KEY, WEIGHTS, Saved
from luthier.core import files
from luthier.core.errors import ConfigError, Fault
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.run_folder import RunFolder
from luthier.models import pretrained
from luthier.models.content import has_content
from luthier.recipe import Recipe
from luthier.tasks.task import Work

log = logging.getLogger("luthier")
ANSWERS = ("task", "labels", "multi_label", "intents", "tags", "scheme", "crf", "error", "middle", "spread")
"""What a model's settings say of the answers of its head."""


def gone_on(recipe: Recipe, work: Work, module: nn.Module, new: frozenset[str]) -> frozenset[str]:
    """Put the weights that the recipe's adapter starts from into it, where it names any; returns what still starts from nothing.

    Args:
        recipe: The recipe.
        work: The task at work.
        module: The module that the fresh adapter is in.
        new: Names of parameters that started from nothing.

    Raises:
        ConfigError: if there is no adapter in the folder, or it does not fit.
    """
    adapter = recipe.adapter
    if adapter is None or adapter.start_from is None or not has_content(module):
        return new
    folder = _folder(adapter.start_from)
    _require_same_base(recipe, folder)
    taken = adapter.take_up(module, Saved(folder, _answers_alike(work, folder)))
    heads = "" if not new else ", and its head" if taken else "; the head is a new one"
    log.info("the adapter goes on from '%s'%s", adapter.start_from, heads)
    return frozenset() if taken else new


def _folder(path: str) -> Path:
    run = RunFolder(path)
    folder = run.model if run.recipe.is_file() else run.path
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        what = f"'{path}' has no adapter: there is no {missing[0]} in {folder}"
        raise ConfigError([Fault(KEY, what, "name a run with an adapter, or a folder that the PEFT library saved; see: luthier adapters")])
    return folder


def _require_same_base(recipe: Recipe, folder: Path) -> None:
    named, own = files.read_json(folder / CONFIG).get("base_model_name_or_path"), pretrained.locate(recipe.model.path)
    if not named or named == own or (Path(named).is_dir() and _weights(named) == _weights(own)):
        return
    if Path(named).resolve() != Path(own).resolve():
        what = f"its base is {named}, and that of the recipe is {own}"
        raise ConfigError([Fault(KEY, what, f"model.path={named}")])


def _weights(path: str) -> dict[str, str]:
    return {name: digest for name, digest in pretrained.file_hashes(path).items() if name.endswith(".safetensors")}


def _answers_alike(work: Work, folder: Path) -> bool:
    """Whether the heads there answer what the task at work is to answer."""
    if not (folder / SETTINGS).is_file():
        return False
    there = read_settings(folder)
    with tempfile.TemporaryDirectory() as aside:
        work.save_settings(Path(aside))
        here = read_settings(Path(aside))
    return all(there.get(name) == here.get(name) for name in ANSWERS)
