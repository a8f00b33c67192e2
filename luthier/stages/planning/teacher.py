"""What a teacher adds to a plan: its weights, and the passes in which it answers; read off the headers of its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from luthier.core.errors import UserError
from luthier.recipe import Recipe
from luthier.stages.distillation.teacher import folders_of
from luthier.stages.planning.duration import Time
from luthier.stages.planning.headers import shapes_in
from luthier.stages.planning.memory import Memory
from luthier.stages.planning.shape import Shape
from luthier.stages.planning.steps import Steps
from luthier.stages.planning.trial import Trial

LOOKED_UP = ("embed", "wte", "wpe")


@dataclass(frozen=True)
class TeacherSize:
    """The size of a teacher.

    Args:
        parameters: All its numbers.
        in_products: Those in matrices that are not only looked up.
        passes: How often each training row goes through it.
    """

    parameters: int
    in_products: int
    passes: float

    def beside(self, memory: Memory) -> Memory:
        """Return what a run needs with the teacher's weights in float32 beside the student; it is let go once its answers are kept."""
        return replace(memory, weights=memory.weights + 4 * self.parameters)

    def asked(self, time: Time, shape: Shape, steps: Steps, trial: Trial) -> Time:
        """Return how long a run takes with the teacher's forward passes, which cost by its matrices what the student's cost."""
        tokens = steps.padded * steps.steps_per_epoch / steps.num_steps
        seconds = self.passes * tokens * trial.answer_seconds * self.in_products / max(shape.matrices, 1)
        more = {"start" if self.passes == 1 else "steps": seconds, "low": 0.9 * seconds, "high": 1.25 * seconds}
        return replace(time, **{name: getattr(time, name) + added for name, added in more.items()})


def teacher_size(recipe: Recipe, epochs: float) -> TeacherSize | None:
    """Return the size of the teacher of a recipe; None where there is none, or its files are not here.

    Args:
        recipe: The recipe.
        epochs: Passes over the rows: so often they go through a teacher whose answers cannot be kept.
    """
    distill = recipe.distill
    if distill is None or distill.teacher is None:
        return None
    try:
        shapes = [
            item for folder in folders_of(distill.teacher) for file in sorted(folder.glob("*.safetensors")) for item in shapes_in(file)
        ]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    if not shapes:
        return None
    products = [shape for name, shape in shapes if len(shape) == 2 and not any(word in name for word in LOOKED_UP)]
    kept = distill.cache and not recipe.data.augment and not distill.looks_inside and recipe.task.answers_with == "classes"
    return TeacherSize(sum(prod(shape) for _, shape in shapes), sum(map(prod, products)), 1.0 if kept else epochs)
