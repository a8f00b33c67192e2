"""Stop before loading where the model alone needs far more memory than there is: read off the headers of its files, in no time."""

from __future__ import annotations

from math import isqrt, prod
from pathlib import Path

import torch

from luthier.core.errors import SetupError
from luthier.core.machine import available_memory_bytes
from luthier.models.pretrained import locate
from luthier.models.quantized import BYTES
from luthier.optim.optimisers import optimisers
from luthier.recipe import Recipe
from luthier.stages.planning.headers import shapes_in
from luthier.stages.planning.teacher import teacher_size
from luthier.training.precision import choose_device

MARGIN = 1.2  # times the memory that is there; what is counted is less than a run takes, so nothing that fits is refused
LIGHTEST = "adafactor"
GIB = 2**30


def refuse_oversize(recipe: Recipe) -> None:
    """Compare what weights, gradients and optimiser take with what is there; activations come on top and are not counted.

    Nothing is refused where the files are not here yet, or the model is split among processes.

    Args:
        recipe: What is to be run.

    Raises:
        SetupError: if it is far too much, with the keys to change.
    """
    if not recipe.training.refuse_oversize or recipe.training.parallel == "fsdp2":
        return
    numbers = stored_numbers(Path(locate(recipe.model.path)))
    if numbers is None:
        return
    trained = numbers if getattr(recipe, "adapter", None) is None and getattr(recipe, "unfreeze", None) is None else 0
    states = recipe.optim.kept_bytes(_square(trained))
    teacher = teacher_size(recipe, 1.0)
    taught = 0 if teacher is None else teacher.parameters
    held = BYTES[recipe.model.quantize] * numbers
    needed, free = held + 4 * taught + 4 * trained + states, _free()
    if needed <= MARGIN * free:
        return
    least = optimisers.get(LIGHTEST)().kept_bytes(_square(trained))
    change = f"optim.type={LIGHTEST}, or " if states > least and needed - states + least <= free else ""
    weights = _gib(held) + (f", teacher {_gib(4 * taught)}" if taught else "")
    raise SetupError(
        f"{recipe.model.path} does not fit: weights {weights}, gradients {_gib(4 * trained)}, optimiser "
        f"{_gib(states)} make {_gib(needed)}, and {_gib(free)} are free",
        where="model.path",
        fix=f"{change}a smaller model; luthier plan says what fits, training.refuse_oversize=false tries all the same",
    )


def _square(numbers: int) -> tuple[int, int]:
    """Return the shape of one matrix of about so many numbers: of no other shape does an optimiser keep less."""
    side = isqrt(numbers)
    return (side, numbers // side) if side else (0, 0)


def stored_numbers(folder: Path) -> int | None:
    """Return how many numbers the safetensors files of a folder hold; None where there are none that can be read."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    try:
        return sum(map(_numbers_in, files)) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _numbers_in(file: Path) -> int:
    return sum(prod(shape) for _, shape in shapes_in(file))


def _free() -> float:
    return float(available_memory_bytes() if choose_device() == "cpu" else torch.cuda.mem_get_info()[0])


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"
