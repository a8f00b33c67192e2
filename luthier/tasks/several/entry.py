"""One of several tasks of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field, SerializeAsAny, field_validator

from luthier.core.config import Section, validate
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.data.section import DataSection
from luthier.losses.loss import Loss
from luthier.models.section import Head
from luthier.tasks.task import Task

ALONE = ("task", "data", "loss")  # what each of several tasks has for itself
USUAL = "text-classification"
Parts = Callable[[dict[str, Any], Iterable[str], str], tuple[dict[str, Any], list[Fault]]]
ALLOWED = "letters, digits, - and _"


class TaskEntry(Section):
    """One of several tasks that share a model: what it learns, from which rows, and with what head."""

    name: str = Field(description="Name of the task in scores, folders and on the command line, such as sentiment.")
    task: SerializeAsAny[Task] = Field(description="What is learnt, such as text-classification, which is the default.")
    data: DataSection = Field(default_factory=DataSection, description="Where its rows come from and how they are held apart.")
    loss: SerializeAsAny[Loss] | None = Field(None, description="What is minimised; none: what fits the task.")
    head: Head | None = Field(None, description="How hidden states become its class scores; none: as in model.head.")
    weight: float = Field(1.0, gt=0, description="What its loss is multiplied by.")

    @field_validator("name")
    @classmethod
    def _fits_a_folder(cls, name: str) -> str:
        if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"got {name!r}, wanted {ALLOWED}")
        return name


def place_of(name: str, entries: Sequence[object]) -> int:
    """Return the number of an entry that is named, or numbered from 0.

    Raises:
        ConfigError: if there is none.
    """
    names = [str(entry.get("name")) if isinstance(entry, Mapping) else "" for entry in entries]
    if name in names:
        return names.index(name)
    if name.isdigit() and int(name) < len(names) and names[int(name)]:
        return int(name)
    raise ConfigError([Fault(f"tasks.{name}", f"there is no task '{name}'", did_you_mean(name, names))])


def entries_of(listed: object, given: Mapping[str, Any], with_parts: Parts) -> tuple[list[TaskEntry], list[Fault]]:
    """Build the entries of `tasks`, and return them with every fault found.

    Args:
        listed: What stands there.
        given: The whole recipe as it was given.
        with_parts: Puts what types name in the place of plain data; takes keys and values, the keys with types, and the path before them.
    """
    fix = "write it into each entry of tasks, or leave tasks out"
    faults = [Fault(key, "stands beside tasks, which have one each", fix) for key in ALONE if given.get(key) is not None]
    several = listed if isinstance(listed, list | tuple) else ()
    if len(several) < 2:
        faults.append(Fault("tasks", f"got {listed!r}, wanted a list of two tasks or more", "for one alone write task, data and loss"))
    built = [_entry(entry, f"tasks.{number}", with_parts) for number, entry in enumerate(several)]
    return [entry for entry, _ in built if entry is not None], [*faults, *(fault for _, found in built for fault in found)]


def _entry(given: object, path: str, with_parts: Parts) -> tuple[TaskEntry | None, list[Fault]]:
    if isinstance(given, TaskEntry):
        return given, []
    if not isinstance(given, Mapping):
        return None, [Fault(path, f"got {given!r}, wanted keys and values", "such as {name: reviews, data: reviews.csv}")]
    data = {"task": USUAL, **given}
    built, faults = with_parts({key: data[key] for key in ALONE if key in data}, ("task", "loss"), f"{path}.")
    entry, found = validate(TaskEntry, {**data, **built}, path=path)
    return entry, faults + found
