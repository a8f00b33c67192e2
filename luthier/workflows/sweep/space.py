"""What a sweep tries: for each key of the recipe a list of values, or a range."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from luthier.core.config import Section, validate
from luthier.core.errors import ConfigError, Fault
from luthier.recipe import resolve

if TYPE_CHECKING:
    from optuna.trial import Trial

SHAPE = "write a list of values, or {low: ..., high: ..., log: true}"
NEVER = {
    "output": "each trial has a folder of its own",
    "task": "trials of several tasks have no score in common",
    "tasks": "every trial has the same tasks; of one of them keys can be tried, such as tasks.NAME.weight",
    "name": "a task has one name",
    "data.validation": "trials are compared on the same validation rows",
    "data.test": "a sweep never looks at the test rows",
    "data.split": "trials are compared on the same validation rows",
}


@dataclass(frozen=True)
class Choices:
    """A list of values, of any kind a recipe takes.

    Args:
        values: What is tried.
    """

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that are checked before anything is trained: all of them."""
        return self.values

    def suggest(self, trial: Trial, key: str) -> Any:
        """Return the value that the sampler picks for a trial."""
        return json.loads(trial.suggest_categorical(key, [written(value) for value in self.values]))


class Range(Section):
    """Numbers from low to high, both included; whole numbers where both ends are whole."""

    low: int | float = Field(description="Lowest value.")
    high: int | float = Field(description="Highest value.")
    log: bool = Field(False, description="Try as many values from 1 to 10 as from 10 to 100, as fits learning rates.")
    step: int | float | None = Field(None, gt=0, description="Distance of the values; none: any.")

    @model_validator(mode="after")
    def _goes_upwards(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}: high must be more")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, wanted more than 0 where log is true")
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together; leave one out")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that are checked before anything is trained."""
        return (self.low, self.high)

    def suggest(self, trial: Trial, key: str) -> Any:
        """Return the value that the sampler picks for a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int) and (self.step is None or isinstance(self.step, int)):
            return trial.suggest_int(key, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)


Space = dict[str, Choices | Range]


def written(value: Any) -> str:
    """Return a value as the text that stands for it in the storage."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_space(given: object) -> tuple[Space, list[Fault]]:
    """Return what a sweep file says under `space`, and every fault of its form.

    Args:
        given: Keys of the recipe with a list or a range each.
    """
    if not isinstance(given, Mapping) or not given:
        return {}, [Fault("space", f"got {given!r}, wanted keys of the recipe", "such as optim.learning_rate: [1e-5, 3e-5]")]
    space: Space = {}
    faults: list[Fault] = []
    for key, tried in given.items():
        path = f"space.{key}"
        refused = _refused(str(key))
        if refused:
            faults.append(Fault(path, f"cannot be tried: {refused}", "leave it out"))
        elif isinstance(tried, Mapping):
            made, found = validate(Range, tried, path=path)
            faults += [Fault(fault.path, fault.message, fault.fix or SHAPE) for fault in found]
            space |= {str(key): made} if made is not None else {}
        elif isinstance(tried, Sequence) and not isinstance(tried, str) and len(tried) > 0:
            space[str(key)] = Choices(tuple(tried))
        else:
            faults.append(Fault(path, f"got {tried!r}", SHAPE))
    return space, faults


def _refused(key: str) -> str | None:
    """Return why a key is never tried, or None; of one of several tasks, such as `tasks.NAME.data.test`, what holds of one alone."""
    of_task = key.split(".", 2)[2:] if key.startswith("tasks.") else [key]
    keys = of_task or ["tasks"]
    return next((why for name, why in NEVER.items() if keys[0] == name or keys[0].startswith(f"{name}.")), None)


def in_order(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return values as changes of a recipe: whole sections first, and of a section its type first, so that no change undoes another."""
    changes: list[tuple[str, Any]] = []
    for key, value in sorted(values.items(), key=lambda item: (item[0].count("."), not item[0].endswith(".type"))):
        if isinstance(value, Mapping) and "type" in value:
            inner = sorted(value.items(), key=lambda item: item[0] != "type")
            changes += [(f"{key}.{name}", one) for name, one in inner]
        else:
            changes.append((key, value))
    return changes


def require_known(base: Mapping[str, Any], space: Space) -> None:
    """Resolve the recipe with each value of each key, the others at their first, before anything is trained.

    Raises:
        ConfigError: with every unknown key and its nearest right name, and every value that a key does not take.
    """
    first = {key: tried.ends[0] for key, tried in space.items()}
    faults: dict[str, Fault] = {}
    for key, tried in space.items():
        for value in tried.ends:
            try:
                resolve(base, in_order({**first, key: value}))
            except ConfigError as error:
                faults |= {str(fault): fault for fault in error.faults}
    if faults:
        raise ConfigError(list(faults.values()), where="the sweep's space")


def combinations(space: Space) -> Iterator[dict[str, str]]:
    """Yield every combination of the lists, in their order, the last key changing first, as the storage has them."""
    lists = [[written(value) for value in tried.ends] for tried in space.values()]
    for values in itertools.product(*lists):
        yield dict(zip(space, values, strict=True))
