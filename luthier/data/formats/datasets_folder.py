"""A folder that the datasets library saved."""

from __future__ import annotations

import json
from pathlib import Path

from luthier.data.formats import formats
from luthier.data.formats.format import SPLIT_NAMES, TINY, Format
from luthier.data.reading import Reading
from luthier.data.section import DataSection
from luthier.data.typed import damaged, read_dataset


@formats.add
class DatasetsFolder(Format):
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote; names of classes are kept."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the files of a saved dataset are there."""
        return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()

    @classmethod
    def splits(cls, source: str) -> dict[str, str]:
        """Return the splits of a saved DatasetDict."""
        listing = Path(source) / "dataset_dict.json"
        if not listing.is_file():
            return {}
        try:
            names = json.loads(listing.read_text(encoding="utf-8"))["splits"]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(str(listing), error) from None
        return {SPLIT_NAMES.get(name, name): str(Path(source) / name) for name in names}

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a saved Dataset; see `Format.read`."""
        from datasets import load_from_disk

        try:
            dataset = load_from_disk(source)
        except Exception as error:  # the library raises many kinds for a damaged folder
            raise damaged(source, error) from None
        return read_dataset(dataset, source)

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny folder; see `Format.example`."""
        from datasets import Dataset

        texts, labels = zip(*TINY, strict=True)
        Dataset.from_dict({"text": texts, "label": labels}).save_to_disk(str(folder / "tiny"))
        return str(folder / "tiny")
