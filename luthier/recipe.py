"""The recipe: what to do, in sections, resolved from a preset, a file, and changes; every fault said at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny

from luthier.adapters import adapters
from luthier.adapters.adapter import Adapter
from luthier.conflicts import conflicts_of
from luthier.core import yaml
from luthier.core.config import Section, build_registered, validate
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.core.registry import Registry
from luthier.data.augment import augmentations
from luthier.data.section import DataSection, MixingSection
from luthier.losses import losses
from luthier.losses.distillation.section import DistillSection
from luthier.losses.loss import Loss
from luthier.models.section import ModelSection
from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Optimiser
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Schedule
from luthier.optim.unfreezing import unfreezings
from luthier.optim.unfreezing.unfreezing import Unfreezing
from luthier.tasks import tasks
from luthier.tasks.several.entry import ALONE, TaskEntry, entries_of, place_of
from luthier.tasks.several.faults import vocabulary_faults
from luthier.tasks.several.scores import wanted_of
from luthier.tasks.task import Task
from luthier.training.retention.section import KeepSection
from luthier.training.section import EvaluateSection, TrackSection, TrainingSection
from luthier.training.speed.section import SpeedSection
from luthier.training.step_rules import PLAIN, step_rules

PRESETS = Path(__file__).parent / "recipes"
DEFAULTS = {"task": "text-classification", "optim": "adamw", "schedule": "linear"}
USUAL = DEFAULTS | {"adapter": "lora", "unfreeze": "gradual"}
REGISTERED: dict[str, Registry[Any]] = {
    "task": tasks,
    "adapter": adapters,
    "loss": losses,
    "optim": optimisers,
    "schedule": schedules,
    "unfreeze": unfreezings,
}
REGISTERED_LISTS: dict[tuple[str, str], Registry[Any]] = {("data", "augment"): augmentations}
SHORT = {
    "data": "data.train",
    "validation": "data.validation",
    "test": "data.test",
    "text": "data.text",
    "label": "data.label",
    "model": "model.path",
    "output": "output",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "optim.learning_rate",
}


class Recipe(Section):
    """Everything a run needs to know."""

    task: SerializeAsAny[Task] = Field(description="What is learnt, such as text-classification.")
    tasks: tuple[TaskEntry, ...] | None = Field(
        None, description="Several tasks that share a model, in the place of task, data and loss; a list of sections."
    )
    mixing: MixingSection | None = Field(None, description="How several tasks share steps and losses.")
    model: ModelSection = Field(default_factory=ModelSection, description="Which pretrained model is tuned, and with what head.")
    data: DataSection = Field(default_factory=DataSection, description="Where the rows come from and how they are held apart.")
    adapter: SerializeAsAny[Adapter] | None = Field(None, description="Train a small part beside frozen weights; none: all weights.")
    loss: SerializeAsAny[Loss] | None = Field(None, description="What is minimised; none: what fits the task.")
    distill: DistillSection | None = Field(None, description="Learn from a teacher besides the labels; none: from the labels alone.")
    optim: SerializeAsAny[Optimiser] = Field(description="Optimiser and learning rates.")
    schedule: SerializeAsAny[Schedule] = Field(description="How the learning rate moves.")
    unfreeze: SerializeAsAny[Unfreezing] | None = Field(
        None, description="Train other layers as time goes by; none: all that are trained at every step."
    )
    keep: KeepSection | None = Field(None, description="Tune a finished run further, and keep what it learnt; none: a model is tuned anew.")
    training: TrainingSection = Field(default_factory=TrainingSection, description="How long, and in what portions.")
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection, description="How the result is measured.")
    track: TrackSection = Field(default_factory=TrackSection, description="Where the run is shown besides its own folder.")
    output: str | None = Field(None, description="Run folder to make; none: runs/ and the name of the data.")

    def as_dict(self) -> dict[str, Any]:
        """Return the whole recipe as plain data, without what is not set."""
        return self.model_dump(mode="json", exclude_none=True, exclude=set(ALONE) if self.tasks else None)

    @property
    def sources(self) -> tuple[DataSection, ...]:
        """Where the rows come from: one section, or one for each of several tasks."""
        return tuple(entry.data for entry in self.tasks) if self.tasks else (self.data,)

    def of_task(self, name: str) -> Recipe:
        """Return the recipe of one of several tasks as if it were alone, with a model of its own, into which an adapter is merged."""
        entry = next(entry for entry in self.tasks or () if entry.name == name)
        training = self.training.model_copy(update={"best_metric": None, "step_rule": PLAIN})
        head = {} if entry.head is None else {"head": entry.head}
        changes: dict[str, Any] = {"task": entry.task, "data": entry.data, "loss": entry.loss, "training": training}
        alone: dict[str, Any] = {"tasks": None, "mixing": None, "adapter": None, "model": self.model.model_copy(update=head)}
        alone["evaluate"] = self.evaluate.model_copy(update={"metrics": wanted_of(entry.task, self.evaluate.metrics)})
        return self.model_copy(update=changes | alone)

    def with_entries(self, changes: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """Return the recipe of several tasks with some values of each replaced, without another look at them."""
        assert self.tasks is not None
        return _sharing(self, [entry.model_copy(update=dict(changes[entry.name])) for entry in self.tasks])

    def require_one_task(self, verb: str) -> None:
        """Raise ConfigError if there are several tasks, for a verb that takes one."""
        if self.tasks is not None:
            raise ConfigError([Fault("tasks", f"{verb} takes one task", "name one in a recipe of its own: task, data and loss")])

    @property
    def additive(self) -> bool:
        """Whether a step may be cut into pieces: no rows of a batch meet in the loss, or the step rule gathers the pieces again."""
        return not self.rows_meet or getattr(self.training.step_rule, "gathers", False)

    @property
    def rows_meet(self) -> bool:
        """Whether rows of a batch meet in the loss."""
        return not self.task.adds_up() or (self.loss is not None and self.loss.contrast is not None)

    def changed(self, **sections: Mapping[str, Any]) -> Recipe:
        """Return the recipe with some values replaced, section by section, without another look at them."""
        updates: dict[str, Any] = {}
        for name, values in sections.items():
            section = getattr(self, name)
            updates[name] = section.model_copy(update=dict(values))
        return self.model_copy(update=updates)


Changes = Mapping[str, Any] | Iterable[tuple[str, Any]]


def resolve(source: str | Path | Mapping[str, Any] | Recipe | None = None, changes: Changes = ()) -> Recipe:
    """Return the recipe that a file, a mapping or nothing gives, with changes by dotted key.

    Args:
        source: A YAML file, the name of a preset, plain data, a recipe, or None for the defaults.
        changes: Values by dotted key, such as `{"optim.learning_rate": 1e-4}`; later ones win.

    Raises:
        ConfigError: with every fault found and where it stands.
    """
    if isinstance(source, Recipe):
        data: dict[str, Any] = source.as_dict()
        where = None
    elif source is None or isinstance(source, Mapping):
        data, where = _plain(source or {}), None
    else:
        data, where = _read(source), str(source)
    data = _with_parent(data, seen=())
    for key, value in changes.items() if isinstance(changes, Mapping) else changes:
        _put(data, key, value)
    recipe, faults = _build(DEFAULTS | data) if data.get("tasks") is None else _build_several(DEFAULTS | data, given=data)
    if recipe is not None:
        recipe = _from_run(recipe)
        faults += conflicts_of(recipe)
    if faults or recipe is None:
        raise ConfigError(faults, where=where)
    return recipe


def resolve_begun(path: str | Path, changes: Changes = ()) -> Recipe:
    """Return the recipe of a run that was begun; means that its version did not have stay off, so that it goes on as it was.

    Args:
        path: The run's recipe.yaml.
        changes: Values by dotted key.

    Raises:
        ConfigError: with every fault found and where it stands.
    """
    begun = _read(path)
    training = begun.setdefault("training", {})
    training.setdefault("most_tokens_at_once", None)
    speed = training.setdefault("speed", {})
    known = SpeedSection.model_fields
    speed.update({name: False for name, field in known.items() if name not in speed and isinstance(field.default, bool)})
    return resolve(begun, changes)


def preset_names() -> list[str]:
    """Return the names that `from:` and `luthier train` accept."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if not path.exists() and path.suffix == "" and path.parent == Path("."):
        if str(source) not in preset_names():
            raise ConfigError([Fault("recipe", f"no file and no preset '{source}'", did_you_mean(str(source), preset_names()))])
        path = PRESETS / f"{source}.yaml"
    loaded = yaml.load_file(path)
    if loaded is None:
        return {}
    if not isinstance(loaded, Mapping):
        fix = f"if it holds rows: luthier train --data {path}, or luthier init {path}"
        raise ConfigError([Fault("recipe", f"got {type(loaded).__name__}, wanted keys and values", fix)], where=str(path))
    return _plain(loaded)


def _with_parent(data: dict[str, Any], seen: tuple[str, ...]) -> dict[str, Any]:
    parent = data.pop("from", None)
    if parent is None:
        return data
    if parent in seen:
        raise ConfigError([Fault("from", f"goes in a circle: {' -> '.join([*seen, parent])}")])
    return _merged(_with_parent(_read(parent), (*seen, parent)), data)


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `change` laid over it; a section of another type takes nothing over from the old one."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        same_kind = isinstance(old, dict) and isinstance(value, dict) and value.get("type", old.get("type")) == old.get("type")
        merged[key] = _merged(old, value) if same_kind and isinstance(old, dict) else value
    return merged


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a section given as a bare name or path grows into keys and values first."""
    *sections, last = key.split(".")
    if len(sections) > 1 and sections[0] == "tasks" and isinstance(data.get("tasks"), list | tuple):
        _put_in_task(data, sections[1], ".".join([*sections[2:], last]), value)
        return
    if not sections and last in data and isinstance(value, dict) and isinstance(data[last], dict):
        data[last] = _merged(data[last], value)
        return
    place = data
    for depth, section in enumerate(sections):
        inner = place.get(section, DEFAULTS.get(section) if depth == 0 else None)
        if isinstance(inner, str):
            inner = {"data": {"train": inner}, "model": {"path": inner}, "keep": {"run": inner}}.get(section, {"type": inner})
        if not isinstance(inner, dict):
            inner = {}
        place[section] = dict(inner)
        place = place[section]
    if last == "type" and place.get("type") not in (None, value):
        place.clear()
    place[last] = value


def _put_in_task(data: dict[str, Any], name: str, key: str, value: Any) -> None:
    """Set a dotted key of one of several tasks, which is named, or numbered from 0."""
    entries, number = list(data["tasks"]), place_of(name, data["tasks"])
    entries[number] = dict(entries[number])
    _put(entries[number], key, value)
    data["tasks"] = entries


def _build_several(data: dict[str, Any], given: Mapping[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    """Build a recipe of several tasks, of which each entry has a task, data and loss of its own."""
    entries, faults = entries_of(data["tasks"], given, _with_parts)
    rest = {key: value for key, value in data.items() if key not in (*ALONE, "tasks")}
    recipe, found = _build({"mixing": {}, **rest} if rest.get("mixing") is None else rest)
    if recipe is None or faults or found:
        return None, faults + found
    return _sharing(recipe, entries), vocabulary_faults(recipe.model)


def _sharing(recipe: Recipe, entries: Sequence[TaskEntry]) -> Recipe:
    """Return the recipe with these tasks."""
    from luthier.tasks.several.task import SeveralTasks

    assert recipe.mixing is not None
    shared = recipe.changed(model={"extend_vocabulary": False})
    if recipe.mixing.weights == "gradnorm" and recipe.training.step_rule == PLAIN:
        shared = shared.changed(training={"step_rule": step_rules.get("gradnorm")()})
    return shared.model_copy(update={"tasks": tuple(entries), "task": SeveralTasks(entries=tuple(entries), mixing=recipe.mixing)})


def _with_parts(data: dict[str, Any], names: Iterable[str], path: str = "") -> tuple[dict[str, Any], list[Fault]]:
    """Return the data with what its types name in the place of plain data, and the faults."""
    faults: list[Fault] = []
    built = dict(data)
    for name in names:
        registry = REGISTERED[name]
        if data.get(name) is None:
            built.pop(name, None)
            continue
        part, found = build_registered(registry, _with_type(name, data), path=f"{path}{name}")
        faults += found
        built[name] = part if part is not None else registry.get(USUAL.get(name, "cross-entropy"))()
    for (section, key), registry in REGISTERED_LISTS.items():
        inner = built.get(section)
        if isinstance(inner, Mapping) and key in inner:
            parts, found = _build_list(registry, inner[key], path=f"{path}{section}.{key}")
            faults += found
            built[section] = {**inner, key: parts}
    return built, faults


def _build(data: dict[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    built, faults = _with_parts(data, REGISTERED)
    for name in ("task", "optim", "schedule"):
        built.setdefault(name, REGISTERED[name].get(DEFAULTS[name])())
    training = built.get("training")
    if isinstance(training, Mapping) and training.get("step_rule", PLAIN) != PLAIN:
        rule, found = build_registered(step_rules, training["step_rule"], path="training.step_rule")
        faults += found
        built["training"] = {**training, "step_rule": rule or PLAIN}
    recipe, found = validate(Recipe, built)
    return recipe, faults + found


def _build_list(registry: Registry[Any], data: object, *, path: str) -> tuple[list[Any], list[Fault]]:
    """Return the parts that a list names, without those at fault, and the faults."""
    if data is None:
        return [], []
    if not isinstance(data, list | tuple):
        return [], [Fault(path, f"got {data!r}, wanted a list", f"such as {path}=[{', '.join(registry.names())}]")]
    built = [build_registered(registry, item, path=f"{path}.{position}") for position, item in enumerate(data)]
    return [part for part, _ in built if part is not None], [fault for _, found in built for fault in found]


def _with_type(name: str, data: dict[str, Any]) -> Any:
    """Return a section with the usual type where it names none."""
    section = data[name]
    if not isinstance(section, Mapping) or "type" in section:
        return section
    several = "multi-label" in str(data.get("task")) or (isinstance(data.get("data"), Mapping) and data["data"].get("label_separator"))
    return {"type": USUAL.get(name, "binary-cross-entropy" if several else "cross-entropy"), **section}


def _from_run(recipe: Recipe) -> Recipe:
    """Return the recipe with the model of the run that is tuned further in the place of its own."""
    return recipe if recipe.keep is None else recipe.changed(model={"path": str(recipe.keep.model)})


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as dicts, so that nothing of the caller's is changed."""
    return {str(key): _plain(value) if isinstance(value, Mapping) else value for key, value in data.items()}
