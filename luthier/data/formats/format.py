"""What a format is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from luthier.data.reading import Reading
from luthier.data.section import DataSection

SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "validation"}
SPLIT_NAMES |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
TINY = [("a fine film", "good"), ("dull and long", "bad"), ("很好看", "good"), ("无聊透顶", "bad")]


class Format(ABC):
    """One way to store rows. Has no state: everything is in the source and the section."""

    registered_name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the file or folder at `path` looks like this format: by the ending of its name, `.gz` left aside."""
        name = path.name.lower().removesuffix(".gz")
        return path.is_file() and name.endswith(cls.endings) if cls.endings else False

    @classmethod
    def splits(cls, source: str) -> dict[str, str]:
        """Return the sources of `train`, `validation` and `test` where one source holds several; else nothing."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a source.

        Args:
            source: A file, a folder or a hub id, as the user named it.
            section: The `data` section of the recipe.

        Raises:
            DataError: if the source is not this format, or is empty.
        """

    @classmethod
    @abstractmethod
    def example(cls, folder: Path) -> str | None:
        """Write the rows of `TINY` (columns `text` and `label`) into `folder`; returns the source, or None where it cannot."""
