"""How much memory a run needs, by what needs it; whether that fits, and which keys to change where it does not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from luthier.core.machine import available_memory_bytes
from luthier.recipe import Recipe
from luthier.stages.planning.shape import Kept, Shape
from luthier.stages.planning.trial import Trial

CONTEXT_BYTES = 0.6 * 2**30  # what a CUDA process takes before its first tensor, about
SPARE = 0.95  # of the memory that is there


@dataclass(frozen=True)
class Memory:
    """Bytes by what needs them.

    Args:
        weights: The model.
        gradients: Of the trained parameters.
        optimiser: What the optimiser keeps.
        activations: What the forward pass of the largest micro-batch keeps for the backward pass.
        process: Everything else: the libraries, the untuned model of the baseline, what malloc does not give back.
        available: What is there.
        copies: Further copies of weights: averages, where L2-SP pulls to, where SAM came from.
    """

    weights: float
    gradients: float
    optimiser: float
    activations: float
    process: float
    available: float
    copies: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.copies + self.gradients + self.optimiser + self.activations + self.process

    @property
    def fits(self) -> bool:
        """Whether it fits, with a little to spare."""
        return self.total <= SPARE * self.available

    def as_dict(self) -> dict[str, float | bool]:
        """Return it as plain data."""
        return {name: round(value) for name, value in {**asdict(self), "total": self.total}.items()} | {"fits": self.fits}


def on_this_machine(shape: Shape, activations: float, process: float, trial: Trial | None, *, more: float = 0.0) -> Memory:
    """Return what a run needs here: what the trial's process took, where there was one.

    Args:
        shape: Size of the model.
        activations: What the largest micro-batch keeps.
        process: Memory of a process with everything loaded but the model.
        trial: What was measured, or None.
        more: Bytes that the run needs and the trial did not: of old rows, less what a base in 4 or 8 bits spares.
    """
    memory = _counted(shape, activations, process, available_memory_bytes())
    if trial is None:
        return memory
    rest = trial.peak_bytes + more - (memory.total - memory.process)
    return replace(memory, process=max(rest, trial.process_bytes))


def on_accelerator(shape: Shape, kept: Kept, rows: int, memory_bytes: float) -> Memory:
    """Return what a run needs on an accelerator, calculated."""
    working = 2 * kept.largest_per_row * rows
    return _counted(shape, kept.of(rows), CONTEXT_BYTES + working, memory_bytes)


def _counted(shape: Shape, activations: float, process: float, available: float) -> Memory:
    return Memory(shape.weight_bytes, shape.gradient_bytes, shape.optimiser_bytes, activations, process, available, shape.copied_bytes)


def changes_that_fit(recipe: Recipe, memory: Memory, kept: Kept, rows: int) -> list[str]:
    """Return the keys to change so that it fits; empty where it fits already.

    Smaller micro-batches come first, for they change nothing of the result. Where even one row at a time is too much,
    what makes the model's own share smaller is named.

    Args:
        recipe: The recipe.
        memory: What it needs.
        kept: What each row of a micro-batch keeps.
        rows: Rows of a micro-batch.
    """
    if memory.fits:
        return []
    training = recipe.training
    for size in (size for size in range(rows // 2, 0, -1) if rows % size == 0):
        if replace(memory, activations=kept.of(size)).fits:
            accumulate = training.gradient_accumulation_steps * rows // size
            return [f"training.batch_size={size}", f"training.gradient_accumulation_steps={accumulate}"]
    changes = [] if training.precision == "bf16" else ["training.precision=bf16"]
    if "adapter" in Recipe.model_fields:
        changes.append("adapter.type=lora")
    elif recipe.optim.registered_name == "adamw":
        changes.append("optim.type=adafactor")
    return [*changes, "data.max_length=128", "model.path=A-SMALLER-MODEL"]
