"""A dataset on a Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core import hub
from luthier.core.errors import DataError, SetupError
from luthier.data.formats import formats
from luthier.data.formats.format import SPLIT_NAMES, Format
from luthier.data.reading import Reading
from luthier.data.section import DataSection
from luthier.data.typed import read_dataset


@formats.add
class Hub(Format):
    """A hub id, `user/name`; `user/name:configuration#split` names a configuration and a split."""

    @classmethod
    def splits(cls, source: str) -> dict[str, str]:
        """Return the splits of the dataset, unless the id names one."""
        if "#" in source:
            return {}
        return {SPLIT_NAMES.get(name, name): f"{source}#{name}" for name in _load(source, None)}

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a dataset of the hub; see `Format.read`."""
        name, _, split = source.partition("#")
        return read_dataset(_load(name, split or "train"), source)

    @classmethod
    def example(cls, folder: Path) -> None:
        """Nothing: a hub cannot be written to here."""
        return None


def _load(source: str, split: str | None) -> Any:
    offline = hub.switched_off()
    if not offline and not hub.reachable():
        raise _no_hub(source)
    from datasets import load_dataset

    name, _, configuration = source.partition(":")
    try:
        return load_dataset(name, configuration or None, split=split)
    except Exception as error:  # the library raises many kinds: no such dataset, no such split, no network
        if offline:
            raise _no_hub(source) from None
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the hub dataset '{source}' cannot be loaded: {message}", fix="check the id, or name a file") from None


def _no_hub(source: str) -> SetupError:
    return SetupError(
        f"there is no file or folder '{source}', and as a hub id it cannot be loaded: no hub can be reached from here",
        fix="check the path; or connect to the network (HF_HUB_OFFLINE unset; HF_ENDPOINT names a mirror)",
    )
