"""The learning rates of a run and its trained layers, before it is begun: at every step, as plain data and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.data.prepared import Prepared
from luthier.explain.schedule_chart import schedule_file
from luthier.models import pretrained, scratch
from luthier.models.outline import num_levels
from luthier.optim.schedules.schedule import Horizon
from luthier.optim.unfreezing.unfreezing import turns_over
from luthier.recipe import Recipe
from luthier.stages.layout.decide import decided_epochs, decided_rates
from luthier.stages.layout.feeding import horizon

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
        "layers": layers_over(recipe, length),
    }
    picture.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(picture, schedule_file(found))
    return found | {"picture": str(picture)}


def layers_over(recipe: Recipe, length: Horizon) -> dict[str, Any] | None:
    """Return which layers are trained at which steps, by depth: 0 is the embeddings, the blocks are counted from 1; the head always is.

    None where all are trained throughout or an adapter is, and where the config does not say how many there are.
    """
    frozen = recipe.model.freeze
    if recipe.unfreeze is None and frozen is None:
        return None
    blocks = num_levels(_config(recipe))
    if blocks is None:
        return None
    lowest = blocks + 1 if frozen == "body" else frozen + 1 if isinstance(frozen, int) else 0
    turns = turns_over(recipe.unfreeze, length, blocks, seed=recipe.training.seed, lowest=lowest)
    return {
        "blocks": blocks,
        "turns": [{"first": turn.first, "last": turn.last, "trained": sorted(turn.trained)} for turn in turns],
        "in_part": isinstance(frozen, tuple) or recipe.model.train is not None,
    }


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
        return scratch.scratch_config(recipe.model.scratch, scratch.open_words(recipe.model), kind=None)
    return pretrained.load_config(recipe.model.path)
