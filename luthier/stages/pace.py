"""The learning rates of a run before it is begun: at every step, as plain data and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.data.prepared import Prepared
from luthier.explain.schedule_chart import schedule_file
from luthier.models import pretrained, scratch
from luthier.optim.schedules.schedule import Horizon
from luthier.recipe import Recipe
from luthier.stages.decide import decided_epochs, decided_rates
from luthier.stages.feeding import horizon

GROUPS = ("learning_rate", "head_learning_rate")


def draw_pace(recipe: Recipe, length: Horizon, picture: Path) -> dict[str, Any]:
    """Compute the rates of every step and draw them; no weight is loaded.

    Args:
        recipe: The recipe.
        length: How long the run is.
        picture: The SVG file to write.

    Returns:
        The object that `luthier schedule --json` prints.
    """
    highest = dict(zip(GROUPS, decided_rates(recipe, lambda: _config(recipe)), strict=True))
    factors = [recipe.schedule.factor(step, length) for step in range(length.total_steps)]
    peak = factors.index(max(factors))
    found = {
        "schedule": recipe.schedule.model_dump(mode="json"),
        "steps": length.total_steps,
        "steps_per_epoch": length.steps_per_epoch,
        "warmup_steps": min(length.steps(recipe.schedule.warmup), length.total_steps),
        "peak_step": peak + 1,
        "watches_scores": recipe.schedule.watches_scores,
        "rates": {
            name: {"start": rate * factors[0], "peak": rate * factors[peak], "end": rate * factors[-1], "mean": rate * _mean(factors)}
            for name, rate in highest.items()
        },
        "factors": factors,
    }
    picture.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(picture, schedule_file(found))
    return found | {"picture": str(picture)}


def length_of(recipe: Recipe, prepared: Prepared) -> Horizon:
    """Return how long a run on these rows is; where the batch size is auto, the rows of a step are what is known of it."""
    training, split = recipe.training, prepared.splits["train"]
    changes: dict[str, Any] = {"epochs": decided_epochs(recipe, prepared)}
    if training.batch_size == "auto":
        changes |= {"batch_size": min(training.effective_batch_size, len(split)), "gradient_accumulation_steps": 1}
    return horizon(recipe.changed(training=changes), split)


def length_in_steps(recipe: Recipe, steps: int) -> Horizon:
    """Return how long a run of so many steps is; one epoch where the recipe leaves their number open."""
    epochs = recipe.training.epochs
    return Horizon(steps, max(1, round(steps / (1.0 if epochs == "auto" else epochs))))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _config(recipe: Recipe) -> Any:
    if recipe.model.scratch is not None:
        return scratch.scratch_config(recipe.model.scratch, scratch.open_words(recipe.model))
    return pretrained.load_config(recipe.model.path)
