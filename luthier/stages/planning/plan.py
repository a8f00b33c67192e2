"""The plan of a run: parameters, memory, tokens, time and cost, here and on named machines; nothing of the model is loaded."""

from __future__ import annotations

from typing import Any

from luthier.core.machine import environment, memory_bytes
from luthier.data.prepared import Prepared
from luthier.optim import defaults
from luthier.recipe import Recipe
from luthier.stages.planning import duration, memory
from luthier.stages.planning.hardware import Hardware, named
from luthier.stages.planning.measured import measured
from luthier.stages.planning.passes import Passes
from luthier.stages.planning.shape import Kept, Shape, kept_of, shape_of
from luthier.stages.planning.steps import Steps, steps_of
from luthier.stages.planning.teacher import TeacherSize, teacher_size
from luthier.stages.planning.trial import Trial, libraries, trial_of
from luthier.training.precision import choose_device, choose_precision

HERE = "this machine"
TOKENS_PER_PARAMETER = 20  # compute-optimal: https://arxiv.org/abs/2203.15556
TRIAL_SHARE = 0.4  # of the free memory that a trial may take
Sizes = tuple[Shape, Kept, Steps, Passes]


def plan_run(
    recipe: Recipe,
    prepared: Prepared,
    *,
    hardware: tuple[str, ...],
    price: float | None,
    pretraining: bool,
    measure: bool,
    fresh: bool,
    passes: Passes,
) -> dict[str, Any]:
    """Return the object that `luthier plan --json` prints.

    Args:
        recipe: What is to be run.
        prepared: Its encoded rows, or assumed ones.
        hardware: Names of other machines.
        price: Price of an hour, or None.
        pretraining: Whether to say how many tokens a model of this size wants from zero.
        measure: Do 3 real steps with the real weights, in a process of its own.
        fresh: Measure again what is known of this machine.
        passes: What is asked of a step beside one pass of its rows.

    Raises:
        ConfigError: if a machine is not known.
    """
    machines = [named(name) for name in hardware]
    loading = libraries(recipe)
    process = memory_bytes()
    recipe = decided(recipe, prepared)
    steps = steps_of(recipe, prepared)
    shape = shape_of(recipe, prepared)
    rows = steps.largest
    row = int(rows[prepared.splits["train"].longest_window_N[rows].argmax()])
    kept = passes.of_loss(kept_of(recipe, prepared, row, shape.layers))
    teacher = teacher_size(recipe, steps.num_steps / steps.steps_per_epoch)
    needed = memory.on_this_machine(shape, kept.of(len(rows)), process, None)
    trial = None
    if measure:
        trial = measured(recipe, prepared, steps, kept)
    elif needed.total + shape.spared_bytes < TRIAL_SHARE * needed.available:
        trial = trial_of(recipe, prepared, steps, shape.layers, fresh=fresh)
    sizes = (shape, kept, steps, passes)
    found = [_here(recipe, prepared, sizes, trial, (process, loading), None if measure else teacher)]
    found += [_there(recipe, sizes, machine, teacher) for machine in machines]
    for entry in found:
        entry["cost"] = None if price is None or entry["seconds"] is None else _cost(entry["seconds"], price)
    facts = _facts(recipe, prepared, shape, passes.lengthened(steps), passes)
    facts |= {} if teacher is None else {"teacher": {"parameters": teacher.parameters, "passes": round(teacher.passes, 4)}}
    return (
        facts
        | {"price_per_hour": price, "machines": found}
        | ({"pretraining": _pretraining(shape, steps, machines)} if pretraining else {})
    )


def decided(recipe: Recipe, prepared: Prepared) -> Recipe:
    """Return the recipe with every `auto` decided that a plan needs, without the model."""
    training, optim = recipe.training, recipe.optim
    epochs = training.epochs
    if epochs == "auto":
        epochs = defaults.epochs(len(prepared.splits["train"]), len(prepared.labels), training.rows_per_step)
    rate = defaults.HIGHEST_RATE if optim.learning_rate == "auto" else optim.learning_rate
    head_rate = rate if optim.head_learning_rate == "auto" else optim.head_learning_rate
    return recipe.changed(
        optim={"learning_rate": rate, "head_learning_rate": head_rate},
        training={
            "epochs": float(epochs),
            "precision": choose_precision(training.precision, choose_device()),
            "batch_size": training.rows_per_step if training.batch_size == "auto" else training.batch_size,
        },
    )


def _here(
    recipe: Recipe, prepared: Prepared, sizes: Sizes, trial: Trial | None, before: tuple[float, float], teacher: TeacherSize | None
) -> dict[str, Any]:
    """Return what a run needs on this machine; `before` is the memory and the seconds that loading the libraries took."""
    shape, tried, steps, passes = sizes
    rows, kept = len(steps.largest), passes.with_old_rows(tried)
    spared = 0.0 if trial is not None and trial.is_the_run else shape.spared_bytes
    needed = memory.on_this_machine(shape, kept.of(rows), before[0], trial, more=kept.of(rows) - tried.of(rows) - spared)
    steps = passes.lengthened(steps)
    time = duration.here(recipe, prepared, steps, trial, before[1]) if trial else None
    if teacher is not None:
        needed = teacher.beside(needed)
        time = teacher.asked(time, shape, steps, trial) if time is not None and trial is not None else None
    return {
        "name": HERE,
        "hardware": f"{environment()['processor']}, {environment()['cores']} cores",
        "basis": "counted" if trial is None else trial.basis,
        "memory": needed.as_dict(),
        "change": memory.changes_that_fit(recipe, needed, kept, rows),
        "seconds": None if time is None else time.as_dict(),
    }


def _there(recipe: Recipe, sizes: Sizes, machine: Hardware, teacher: TeacherSize | None) -> dict[str, Any]:
    shape, tried, steps, passes = sizes
    rows, kept, steps = len(steps.largest), passes.with_old_rows(tried), passes.lengthened(steps)
    needed = memory.on_accelerator(shape, kept, rows, machine.memory_bytes)
    needed = needed if teacher is None else teacher.beside(needed)
    return {
        "name": machine.name,
        "basis": "calculated, not measured",
        "memory": needed.as_dict(),
        "change": memory.changes_that_fit(recipe, needed, kept, rows),
        "seconds": duration.on_hardware(recipe, shape, steps, kept.of(rows), machine, passes=passes.each).as_dict(),
    }


def _cost(seconds: dict[str, float], price: float) -> dict[str, float]:
    return {name: round(seconds[name] / 3600 * price, 4) for name in ("total", "low", "high")}


def _facts(recipe: Recipe, prepared: Prepared, shape: Shape, steps: Steps, passes: Passes) -> dict[str, Any]:
    training, split = recipe.training, prepared.splits["train"]
    length = float(steps.longest_M.mean())
    return {
        "model": recipe.model.path if recipe.model.scratch is None else f"{recipe.model.scratch['architecture']} from nothing",
        "parameters": {"all": shape.parameters, "trainable": shape.trainable, "in_products": shape.matrices},
        "layers": shape.layers,
        "width": shape.width,
        "rows": len(split),
        "longest": int(steps.longest_M.max()),
        "epochs": training.epochs,
        "steps": steps.num_steps,
        "batch_size": training.rows,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "precision": training.precision,
        "tokens": round(steps.tokens),
        "padded_tokens": round(steps.padded),
        "flops": passes.each * duration.flops_of(shape, steps.padded, length),
    } | passes.as_dict()


def _pretraining(shape: Shape, steps: Steps, machines: list[Hardware]) -> dict[str, Any]:
    """Return what a training from zero wants, by the rule of 20 tokens a parameter."""
    tokens = TOKENS_PER_PARAMETER * shape.parameters
    flops = 6.0 * shape.parameters * tokens
    hours = {machine.name: round(flops / (duration.USED[1] * machine.half_flops) / 3600, 2) for machine in machines}
    per_epoch = steps.tokens / max(steps.num_steps / steps.steps_per_epoch, 1e-9)
    return {"tokens": tokens, "flops": flops, "passes_over_the_rows": round(tokens / per_epoch, 1), "hours": hours}
