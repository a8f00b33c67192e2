"""What a work keeps in a model folder beside the model, and is made of when the folder is opened again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.core import files
from luthier.core.model_folder import SETTINGS

if TYPE_CHECKING:
    from luthier.tasks.task import Task

Settings = TypeVar("Settings", bound="Task")


def keep(folder: Path, tokenizer: Any, task: str, kept: Mapping[str, Any]) -> None:
    """Write the tokenizer, the name of the task, and what the work is made of.

    Args:
        folder: The model folder.
        tokenizer: The tokenizer.
        task: Name of the task.
        kept: Plain data.
    """
    tokenizer.save_pretrained(folder)
    files.write_json(folder / SETTINGS, {"task": task, **kept})


def as_kept(work: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return some fields of a work as plain data: tuples are lists."""
    return {name: list(value) if isinstance(value := getattr(work, name), tuple) else value for name in names}


def as_fields(kept: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a work from what was kept of them: lists are tuples."""
    return {name: tuple(kept[name]) if isinstance(kept[name], list) else kept[name] for name in names}


def settings_among(kind: type[Settings], kept: Mapping[str, Any]) -> Settings:
    """Return the settings of a task from what was kept of them; others are as they are by default."""
    return kind(**{name: kept[name] for name in kind.model_fields if name in kept})
