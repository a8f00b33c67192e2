"""What does not go with several tasks, and what goes with them alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from luthier.core.errors import Fault
from luthier.models.section import ModelSection
from luthier.tasks.several.entry import TaskEntry

GRADNORM, OWN_RUN = "gradnorm", "train it in a run of its own"


def faults_of_several(recipe: Any, entries: Sequence[TaskEntry]) -> list[Fault]:
    """Return what in a recipe does not go with its tasks.

    Args:
        recipe: The recipe.
        entries: Its tasks; none where it has one, which is no entry.
    """
    if entries:
        return [*_names(entries), *_kinds(entries), *_keys(recipe), *_steps(recipe, len(entries))]
    faults = [Fault("mixing", "mixes several tasks, and the recipe has one", "leave mixing out")] if recipe.mixing else []
    rule = recipe.training.step_rule
    if getattr(rule, "tells_tasks_apart", False):
        what = f"{rule.registered_name} weighs the gradients of several tasks, and the recipe has one"
        faults.append(Fault("training.step_rule", what, "leave it out, or name several tasks"))
    return faults


def _names(entries: Sequence[TaskEntry]) -> Iterator[Fault]:
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        if entry.name in seen:
            yield Fault(f"tasks.{number}.name", f"another task is called '{entry.name}'", f"give it another name, such as {entry.name}-2")
        seen.add(entry.name)


def _kinds(entries: Sequence[TaskEntry]) -> Iterator[Fault]:
    for number, entry in enumerate(entries):
        if getattr(entry.task, "adds_tokens", False):
            what = "markers that are tokens of their own would be known to one task alone, and the others share its vocabulary"
            yield Fault(f"tasks.{number}.task.markers", what, f"tasks.{entry.name}.task.markers=words")
        if entry.task.reads_apart and not all(other.task.reads_apart for other in entries):
            other = next(other for other in entries if not other.task.reads_apart)
            what = f"{entry.task.registered_name} has an encoder and a decoder, and {other.task.registered_name} one stack"
            yield Fault(f"tasks.{number}.task", what, OWN_RUN)
        for name in ("mixup", "contrast", "smart"):
            if getattr(entry.loss, name, None) is not None:
                what = f"{name} does not go with several tasks"
                yield Fault(f"tasks.{number}.loss.{name}", what, "leave it out, or train that task in a run of its own")
        if entry.loss is not None and entry.loss.cosine_scale is not None:
            what = f"{entry.loss.registered_name} has a head of its own, and several tasks have plain ones"
            yield Fault(f"tasks.{number}.loss.type", what, "use cross-entropy, or train that task in a run of its own")
        if entry.data.train is None:
            yield Fault(f"tasks.{number}.data.train", "is required", "name the training rows of the task")


def _keys(recipe: Any) -> Iterator[Fault]:
    training = recipe.training
    if recipe.keep is not None:
        yield Fault("keep", "a finished run is tuned further on one task", "leave keep out, or name that task alone")
    if recipe.model.scratch is not None and any(entry.task.answers_with != "text" for entry in recipe.tasks):
        what = "a model from nothing writes text, and not all tasks do"
        yield Fault("model.scratch", what, "leave it out, or train such a model on its own first, and name its folder as model.path")
    if training.batch_size == "auto":
        yield Fault("training.batch_size", "auto does not go with several tasks", "name a number, such as training.batch_size=32")
    if getattr(training.step_rule, "gathers", False):
        what = f"{training.step_rule.registered_name} gathers the rows of one task"
        yield Fault("training.step_rule", what, "leave it out; a step is then of whole batches, each with a loss of its own")
    if training.parallel == "fsdp2":
        yield Fault("training.parallel", "fsdp2 does not go with several tasks", "leave it out, and train in one process")
    if recipe.adapter is not None and recipe.adapter.wants_rows_apart:
        what = f"{recipe.adapter.registered_name} puts virtual tokens before every row, which cannot be merged into the shared layers"
        yield Fault("adapter.type", what, "use adapter.type=lora")


def _steps(recipe: Any, num_tasks: int) -> Iterator[Fault]:
    rule, batches = recipe.training.step_rule, recipe.training.gradient_accumulation_steps
    if getattr(rule, "tells_tasks_apart", False) and batches < 2:
        what = f"{rule.registered_name} wants batches of several tasks in a step, and a step has one batch"
        fix = f"training.gradient_accumulation_steps={num_tasks}, and mixing.sampling=round-robin"
        yield Fault("training.gradient_accumulation_steps", what, fix)
    name = rule if isinstance(rule, str) else rule.registered_name
    if (name == GRADNORM) != (recipe.mixing.weights == GRADNORM):
        fix = f"training.step_rule={GRADNORM} with mixing.weights={GRADNORM}, or neither"
        yield Fault("mixing.weights", f"got {recipe.mixing.weights} with the step rule {name}", fix)
    if name == GRADNORM and recipe.training.precision == "fp16":
        yield Fault("training.precision", f"fp16 scales the losses, which {GRADNORM} compares over time", "use training.precision=bf16")


def vocabulary_faults(model: ModelSection) -> list[Fault]:
    """Refuse to teach the tokenizer, where that was asked for: the tasks share it, and each would teach it other characters."""
    if not (model.extend_vocabulary and "extend_vocabulary" in model.model_fields_set):
        return []
    what = "the rows of each task would teach the tokenizer other characters"
    return [Fault("model.extend_vocabulary", what, "model.extend_vocabulary=false")]
