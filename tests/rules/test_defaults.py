"""Every default of a recipe, kept as a golden file: a default changes on purpose or not at all.

To renew it after a change on purpose: LUTHIER_RENEW=1 pytest tests/rules/test_defaults.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from luthier.core import yaml
from luthier.recipe import REGISTERED, REGISTERED_LISTS, resolve

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "defaults.yaml"
FEWEST_DEFAULTS = 80


def defaults_now() -> dict[str, Any]:
    """The recipe of nothing, and every registered part of a recipe by itself, keys in the order of their names."""
    parts = {
        kind: {name: ordered(registry.get(name)().model_dump(mode="json")) for name in registry.names()}
        for kind, registry in [*REGISTERED.items(), *((".".join(place), registry) for place, registry in REGISTERED_LISTS.items())]
    }
    return {"recipe": ordered(resolve().model_dump(mode="json")), "parts": parts}


def ordered(data: Any) -> Any:
    """Mappings by the order of their keys."""
    return {key: ordered(data[key]) for key in sorted(data)} if isinstance(data, dict) else data


def num_values(data: Any) -> int:
    return sum(map(num_values, data.values())) if isinstance(data, dict) else 1


def test_defaults_are_as_they_were() -> None:
    now = yaml.dump(defaults_now())
    if os.environ.get("LUTHIER_RENEW"):
        GOLDEN.write_text(now, encoding="utf-8")
    then = GOLDEN.read_text(encoding="utf-8")
    assert now == then, (
        "a default changed; if that is meant: LUTHIER_RENEW=1 pytest tests/rules/test_defaults.py, and a line in CHANGELOG.md"
    )
    assert num_values(yaml.load(then, where="golden")) >= FEWEST_DEFAULTS
