"""Print docs/recipe.md: every key of a recipe with its type, default and meaning, read from the classes themselves.

To renew the page: python docs/recipe_reference.py > docs/recipe.md
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from luthier.cli.arguments import SHORT_FLAGS
from luthier.core.registry import Registry
from luthier.core.units import Duration
from luthier.losses.contrasts import contrasts
from luthier.losses.pairs import pair_losses
from luthier.recipe import DEFAULTS, REGISTERED, REGISTERED_LISTS, SHORT, Recipe, preset_names
from luthier.tasks.several.entry import TaskEntry
from luthier.training.step_rules import step_rules
from luthier.training.trackers import trackers

HEAD = """\
# Every key of a recipe

This page is printed by `python docs/recipe_reference.py > docs/recipe.md`; a test fails when it is out of date. Do not edit it.

A recipe is YAML, a Python mapping, or `key=value` words on the command line. The three mean the same:

```yaml
task: text-classification
data: {train: reviews.csv, text: review, label: stars}
optim: {type: adamw, learning_rate: 1e-4}
training: {epochs: 3}
```

```bash
luthier train --data reviews.csv --text review --label stars optim.learning_rate=1e-4 training.epochs=3
```

```python
import luthier

run = luthier.train(data="reviews.csv", text="review", label="stars", optim={"learning_rate": 1e-4}, epochs=3)
```

Only what differs from the defaults has to be written. The run folder keeps the whole, with a number for every `auto`, as
`recipe.yaml`. A key that does not exist is an error that names the nearest one; all faults are reported at once.
"""
NOTES = """\
## How values are written

- **YAML 1.2**: `2e-5` is a number, `no` is a word, `true` and `false` are the only booleans.
- **Durations** have a unit: `3 epochs`, `200 steps`, `5000 samples`, `1e6 tokens`, `6%` of all steps. On a command line one word
  will do: `200steps`. A number alone is refused. `schedule` counts in epochs, steps and %.
- **Columns** are names, or numbers from 0.
- **`none`** in the column "default" means that the key is not set; `null` (in Python `None`) unsets it again.
- **A section with `type`** may be written as the type alone: `optim: sgd`, `schedule: cosine`, `loss: focal`. In a file, a
  section with settings names its type too: `optim: {type: adamw, learning_rate: 1e-4}`, `loss: {type: focal, gamma: 1}`.
- **A list of such parts** mixes both: `augment: [word-swap, {type: word-dropout, probability: 0.2}]`. A list is replaced as a whole,
  also by `data.augment=[word-swap]` on a command line.
- **`data: FILE`** is short for `data: {train: FILE}`, and **`model: PATH`** for `model: {path: PATH}`.

## Paths

- A path in `data` is taken from the folder in which the command runs, not from the folder of the recipe.
- `~` is the home folder. `$VARIABLE` and `${VARIABLE}` in `data.train`, `data.validation` and `data.test` are filled in from the
  environment; one that is not set is an error.
- `package:` stands for the rows that come with Luthier: `package:support_intents/train.csv`, `package:support_intents/test.csv`.
- A name that is no file or folder is taken as a hub id.

## Presets and `from`

`from` names a preset or another recipe file; what stands beside it replaces what it says, key by key. A section whose `type`
changes takes nothing over from the old one. Presets that come with Luthier: PRESETS.

```yaml
from: support-intents
training: {epochs: 4}
```

## Short flags

`luthier train` and `luthier check` take these. The names without the dashes, with `_` for `-`, are the keyword arguments of
`luthier.train`.

| flag | key |
|---|---|
FLAGS

Every other key has a long flag too: `--optim.learning_rate 1e-4`, `--optim.learning_rate=1e-4` and `optim.learning_rate=1e-4` are
the same.
"""
HEADINGS = {"task": "Tasks", "adapter": "Adapters", "loss": "Losses", "optim": "Optimisers", "schedule": "Schedules"}
HEADINGS |= {"unfreeze": "Unfreezing"}
HEADINGS |= {"data.augment": "Augmentations"}
WHERE_NONE = {
    "adapter": "None where none is named: all weights are trained.",
    "unfreeze": "None where none is named: the same layers are trained throughout.",
}
NAMES = {str: "text", int: "whole number", float: "number", bool: "true, false", Duration: "duration", type(None): "none"}


def page() -> str:
    """Return the whole page."""
    flags = "\n".join(f"| `{flag}` | `{key}` |" for flag, (key, _) in SHORT_FLAGS.items())
    presets = ", ".join(f"`{name}`" for name in preset_names())
    assert set(SHORT.values()) | {"task"} == {key for key, _ in SHORT_FLAGS.values()}
    notes = NOTES.replace("FLAGS", flags).replace("PRESETS", presets)
    parts = [HEAD, "## Sections\n", section_table(Recipe), *sections(), *registered_parts(), *listed_parts(), notes]
    return "\n".join(parts)


def sections() -> Iterator[str]:
    """Yield a heading and a table for each section that is no registered part."""
    for name, field in Recipe.model_fields.items():
        inner = section_of(field)
        if name == "tasks":
            yield "## `tasks`\n\nA list; each entry has the keys of `task`, `data` and `loss` above and below, and these. See the guide.\n"
            yield section_table(TaskEntry)
        if inner is not None and name not in REGISTERED:
            yield f"## `{name}`\n"
            yield section_table(inner, prefix=f"{name}.")
        if name == "training":
            yield from settings_of(step_rules, "training.step_rule")
        if name == "track":
            yield f"`track.trackers` are among: {listed(trackers)}.\n"


def settings_of(registry: Registry[Any], key: str) -> Iterator[str]:
    """Yield what each part is that a key inside a section names, with a table of its settings."""
    yield f"`{key}` is one of these, as a name, or as `{{type: NAME, ...}}` with settings.\n"
    for name in registry.names():
        cls = registry.get(name)
        yield f"### `{name}`\n\n{(cls.__doc__ or '').strip().splitlines()[0]}\n"
        if cls.model_fields:
            yield section_table(cls, prefix=f"{key}.")


def registered_parts() -> Iterator[str]:
    """Yield a heading and a table for each part that a `type` picks."""
    for key, registry in REGISTERED.items():
        usual = DEFAULTS.get(key)
        said = f"`{usual}` where none is named." if usual else WHERE_NONE.get(key, "What fits the task where none is named.")
        yield f"## {HEADINGS[key]}: `{key}.type`\n\n{said}\n"
        for name in registry.names():
            cls = registry.get(name)
            yield f"### `{name}`\n\n{(cls.__doc__ or '').strip().splitlines()[0]}\n"
            yield section_table(cls, prefix=f"{key}.")
        if key == "loss":
            yield from settings_of(contrasts, "loss.contrast")
        if key == "task":
            yield from settings_of(pair_losses, "task.loss")


def listed_parts() -> Iterator[str]:
    """Yield a heading and a table for each part that stands in a list."""
    for (section, key), registry in REGISTERED_LISTS.items():
        path = f"{section}.{key}"
        said = "A list of names, or of `{type: NAME, ...}` with settings; they work in the order of the list."
        yield f"## {HEADINGS[path]}: `{path}`\n\n{said}\n"
        for name in registry.names():
            cls = registry.get(name)
            yield f"### `{name}`\n\n{(cls.__doc__ or '').strip().splitlines()[0]}\n"
            yield section_table(cls)


def section_table(cls: type[BaseModel], *, prefix: str = "") -> str:
    """Return the table of a section, the sections inside it spelled out."""
    head = "| key | type | default | meaning |\n|---|---|---|---|\n"
    return head + "".join(f"| `{key}` | {kind} | {default} | {cell(meaning)} |\n" for key, kind, default, meaning in rows(cls, prefix))


def rows(cls: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, type, default and meaning of every field."""
    for name, field in cls.model_fields.items():
        inner = section_of(field)
        yield f"{prefix}{name}", type_name(field.annotation) + range_of(field), default_of(field, inner), field.description or ""
        if inner is not None and prefix:
            yield from rows(inner, f"{prefix}{name}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field holds, or None."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def type_name(annotation: Any) -> str:
    """Return a type in words."""
    if get_origin(annotation) is Annotated:
        return type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return ", ".join(dict.fromkeys(type_name(kind) for kind in get_args(annotation) if kind is not type(None)))
    if get_origin(annotation) in (tuple, list):
        inner = [kind for kind in get_args(annotation) if kind is not Ellipsis]
        return f"list of {len(inner)} numbers" if len(inner) > 1 else f"list: {type_name(inner[0])}"
    if get_origin(annotation) is dict:
        values = get_args(annotation)[1]
        of_each = "label" if values is float else "name"
        return "keys and values" if values is Any else f"{type_name(values)} for each {of_each}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return NAMES.get(annotation, str(annotation))


def range_of(field: FieldInfo) -> str:
    """Return the limits of a number, such as ` (≥ 0, < 1)`, or nothing."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [f"{sign} {getattr(limit, name):g}" for limit in field.metadata for name, sign in signs.items() if hasattr(limit, name)]
    return f" ({', '.join(found)})" if found else ""


def default_of(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    """Return a default as it is written in a recipe."""
    if field.is_required():
        return "required" if inner is None else "see below"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    if inner is not None:
        return "see below"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{list(default)}`" if isinstance(default, tuple) else f"`{default}`"


def listed(registry: Registry[Any]) -> str:
    """Return the names of a registry."""
    return ", ".join(f"`{name}`" for name in registry.names())


def cell(text: str) -> str:
    """Return a text that does not end its cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
