"""What stands in a model folder beside the model: the name of its task, and what the work on it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core import files

SETTINGS = "luthier.json"


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what is kept in a model folder.

    Args:
        folder: The model folder of a run.

    Raises:
        FileNotFoundError: if nothing is, as where plain transformers wrote it.
    """
    found: dict[str, Any] = files.read_json(folder / SETTINGS)
    return found
