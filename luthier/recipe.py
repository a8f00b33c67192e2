"""The recipe: what to do, in sections, resolved from a preset, a file, and changes; every fault said at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny

from luthier.adapters import adapters
from luthier.adapters.adapter import Adapter
from luthier.core import yaml
from luthier.core.config import Section, build_registered, validate
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.core.registry import Registry
from luthier.data.augment import augmentations
from luthier.data.section import DataSection
from luthier.losses import losses
from luthier.losses.loss import Loss
from luthier.models.section import ModelSection
from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Optimiser
from luthier.optim.schedules import schedules
from luthier.optim.schedules.schedule import Schedule
from luthier.optim.unfreezing import unfreezings
from luthier.optim.unfreezing.unfreezing import Unfreezing
from luthier.tasks import tasks
from luthier.tasks.task import Task
from luthier.training.section import EvaluateSection, TrackSection, TrainingSection
from luthier.training.speed.section import SpeedSection
from luthier.training.step_rules import PLAIN, step_rules
from luthier.training.trackers import trackers

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
    model: ModelSection = Field(default_factory=ModelSection, description="Which pretrained model is tuned, and with what head.")
    data: DataSection = Field(default_factory=DataSection, description="Where the rows come from and how they are held apart.")
    adapter: SerializeAsAny[Adapter] | None = Field(None, description="Train a small part beside frozen weights; none: all weights.")
    loss: SerializeAsAny[Loss] | None = Field(None, description="What is minimised; none: what fits the task.")
    optim: SerializeAsAny[Optimiser] = Field(description="Optimiser and learning rates.")
    schedule: SerializeAsAny[Schedule] = Field(description="How the learning rate moves.")
    unfreeze: SerializeAsAny[Unfreezing] | None = Field(
        None, description="Train other layers as time goes by; none: all that are trained at every step."
    )
    training: TrainingSection = Field(default_factory=TrainingSection, description="How long, and in what portions.")
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection, description="How the result is measured.")
    track: TrackSection = Field(default_factory=TrackSection, description="Where the run is shown besides its own folder.")
    output: str | None = Field(None, description="Run folder to make; none: runs/ and the name of the data.")

    def as_dict(self) -> dict[str, Any]:
        """Return the whole recipe as plain data, without what is not set."""
        return self.model_dump(mode="json", exclude_none=True)

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
    recipe, faults = _build(DEFAULTS | data)
    if recipe is not None:
        faults += _cross_faults(recipe)
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
    if not sections and last in data and isinstance(value, dict) and isinstance(data[last], dict):
        data[last] = _merged(data[last], value)
        return
    place = data
    for depth, section in enumerate(sections):
        inner = place.get(section, DEFAULTS.get(section) if depth == 0 else None)
        if isinstance(inner, str):
            inner = {"data": {"train": inner}, "model": {"path": inner}}.get(section, {"type": inner})
        if not isinstance(inner, dict):
            inner = {}
        place[section] = dict(inner)
        place = place[section]
    if last == "type" and place.get("type") not in (None, value):
        place.clear()
    place[last] = value


def _build(data: dict[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    faults: list[Fault] = []
    built = dict(data)
    for name, registry in REGISTERED.items():
        if data.get(name) is None:
            built.pop(name, None)
            continue
        part, found = build_registered(registry, _with_type(name, data), path=name)
        faults += found
        built[name] = part if part is not None else registry.get(USUAL.get(name, "cross-entropy"))()
    for name in ("task", "optim", "schedule"):
        built.setdefault(name, REGISTERED[name].get(DEFAULTS[name])())
    for (section, key), registry in REGISTERED_LISTS.items():
        inner = built.get(section)
        if isinstance(inner, Mapping) and key in inner:
            parts, found = _build_list(registry, inner[key], path=f"{section}.{key}")
            faults += found
            built[section] = {**inner, key: parts}
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


def _cross_faults(recipe: Recipe) -> list[Fault]:
    faults = []
    no_validation = recipe.data.validation is None and recipe.data.split.validation == 0
    for key, value in (("early_stopping", recipe.training.early_stopping), ("best_metric", recipe.training.best_metric)):
        if value is not None and no_validation:
            faults.append(Fault(f"training.{key}", "needs validation rows", "add data.split.validation=0.1 or data.validation=FILE"))
    if recipe.schedule.watches_scores and no_validation:
        what = f"{recipe.schedule.registered_name} goes by validation scores, and there are no validation rows"
        faults.append(Fault("schedule.type", what, "add data.split.validation=0.1 or data.validation=FILE"))
    faults += _average_faults(recipe)
    for tracker in recipe.track.trackers:
        if tracker not in trackers.names():
            faults.append(Fault("track.trackers", f"unknown tracker '{tracker}'", did_you_mean(tracker, trackers.names())))
    if recipe.training.l2_sp is not None and (recipe.adapter is not None or recipe.model.scratch is not None):
        what = "pulls weights back to pretrained ones, and here none of those is trained"
        faults.append(Fault("training.l2_sp", what, "leave training.l2_sp out"))
    return [*faults, *_adapter_faults(recipe), *_split_faults(recipe), *_metric_faults(recipe)]


def _adapter_faults(recipe: Recipe) -> Iterator[Fault]:
    """Yield what does not go with an adapter."""
    if recipe.adapter is None:
        return
    if recipe.model.scratch is not None:
        yield Fault("adapter", "stands beside a trained model, and model.scratch is untrained", "leave adapter out")
    if recipe.model.freeze is not None or recipe.model.train is not None:
        key = "model.train" if recipe.model.freeze is None else "model.freeze"
        yield Fault(key, "an adapter freezes everything but itself and the head already", f"leave {key} out, or adapter")
    if recipe.unfreeze is not None:
        yield Fault("unfreeze", "an adapter's layers are trained throughout", "leave unfreeze out, or adapter")


def _split_faults(recipe: Recipe) -> Iterator[Fault]:
    """Yield what does not go with weights that are split among processes."""
    training = recipe.training
    if training.parallel != "fsdp2":
        return
    asking = [name for name in ("ema", "neftune", "l2_sp") if getattr(training, name) is not None]
    asking += ["step_rule"] if getattr(training.step_rule, "needs_whole_weights", False) else []
    for name in asking:
        what = "needs every weight in each process, and training.parallel=fsdp2 splits them"
        yield Fault(f"training.{name}", what, "use training.parallel=ddp")
    if training.precision == "fp16":
        fix = "use training.precision=bf16, or training.parallel=ddp"
        yield Fault("training.precision", "fp16 does not go with training.parallel=fsdp2", fix)
    if recipe.optim.looks_at_whole:
        what = f"{recipe.optim.registered_name} needs whole matrices, and training.parallel=fsdp2 splits them"
        yield Fault("optim.type", what, "use training.parallel=ddp, or optim.type=adamw")
    if recipe.unfreeze is not None:
        yield Fault("unfreeze", "does not go with training.parallel=fsdp2", "leave one of them out")


def _metric_faults(recipe: Recipe) -> list[Fault]:
    from luthier.metrics.intervals import score_keys

    known = list(recipe.task.own_scores) or ["loss", *score_keys()]
    wanted = [("evaluate.metrics", name) for name in recipe.evaluate.metrics or ()]
    if recipe.training.best_metric is not None:
        wanted.append(("training.best_metric", recipe.training.best_metric))
    return [Fault(path, f"unknown score '{name}'", did_you_mean(name, known)) for path, name in wanted if name not in known]


def _average_faults(recipe: Recipe) -> Iterator[Fault]:
    """Yield what does not go with an optimiser that averages the weights itself."""
    name, schedule = recipe.optim.registered_name, recipe.schedule.registered_name
    if not recipe.optim.averages:
        return
    if schedule != "constant":
        what = f"{name} averages the weights in place of a falling rate, and {schedule} is not constant"
        yield Fault("schedule.type", what, "schedule.type=constant")
    besides = {"ema": f"{name} averages the weights itself", "l2_sp": f"the average of {name} would not follow the pull"}
    for key, what in besides.items():
        if getattr(recipe.training, key) is not None:
            yield Fault(f"training.{key}", what, f"leave training.{key} out, or use optim.type=adamw")
    if recipe.training.parallel == "fsdp2":
        what = f"{name} exchanges whole weights, and training.parallel=fsdp2 splits them"
        yield Fault("optim.type", what, "use training.parallel=ddp, or optim.type=adamw")


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as dicts, so that nothing of the caller's is changed."""
    return {str(key): _plain(value) if isinstance(value, Mapping) else value for key, value in data.items()}
