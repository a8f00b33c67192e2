"""Globs fit whole names, or whole dotted pieces of them."""

from __future__ import annotations

import pytest

from luthier.core.errors import ConfigError
from luthier.core.patterns import fits, fitting

NAME = "bert.encoder.layer.11.attention.self.query.weight"


@pytest.mark.parametrize("pattern", [NAME, "bert", "layer.11", "attention", "layer.*.query", "*.weight", "layer.1?", "layer.[0-9]*", "*"])
def test_a_glob_fits_a_name_and_its_pieces(pattern: str) -> None:
    assert fits(NAME, pattern)


@pytest.mark.parametrize("pattern", ["layer.1", "quer", "bert.layer", "Attention", "bias", "layer.1?.value", ""])
def test_a_piece_is_whole(pattern: str) -> None:
    assert not fits(NAME, pattern)


def test_each_glob_has_its_names_and_every_one_without_is_named() -> None:
    names = [NAME, "bert.encoder.layer.1.output.bias"]
    assert fitting(names, ["layer.1", "bert"], "here") == {"layer.1": {names[1]}, "bert": set(names)}
    with pytest.raises(ConfigError) as caught:
        fitting(names, ["bert", "atention", "layer.2"], "here")
    assert [fault.path for fault in caught.value.faults] == ["here", "here"] and "'attention'" in str(caught.value)
