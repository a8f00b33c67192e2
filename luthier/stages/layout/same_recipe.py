"""Whether a recipe asks for what a run that was begun is doing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.core.errors import ConfigError, Fault
from luthier.recipe import Recipe

MAY_DIFFER = ("output", "training.threads", "training.num_workers", "training.rendezvous_timeout")

FOLLOWS_FROM_KEEP = ("data.labels", "model.head.pooling", "model.head.hidden", "model.head.start")


def refuse_another_recipe(wished: Recipe, begun: Recipe, where: str) -> None:
    """Raise ConfigError, with every key that differs, unless the run does what the recipe wishes; `auto` is content with anything.

    Args:
        wished: The recipe as given.
        begun: The recipe of the run, with every `auto` decided.
        where: The run folder.
    """
    doing = dict(_leaves(begun.as_dict()))
    may_differ = MAY_DIFFER if wished.keep is None else (*MAY_DIFFER, *FOLLOWS_FROM_KEEP)
    faults = [
        Fault(path, f"{doing.get(path)} in the run that was begun, {value} now", "go on as it was, or name another --output")
        for path, value in _leaves(wished.as_dict())
        if value != "auto" and doing.get(path) != value and path not in may_differ
    ]
    if faults:
        raise ConfigError(faults, where=where)


def _leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        elif name == "tasks" and value:
            yield name, [entry["name"] for entry in value]
            for entry in value:
                yield from _leaves(entry, f"tasks.{entry['name']}")
        else:
            yield name, value
