"""Stop before loading where the model alone needs far more memory than there is: read off the headers of its files, in no time."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import torch

from luthier.core.errors import SetupError
from luthier.core.machine import available_memory_bytes
from luthier.models.pretrained import locate
from luthier.optim.optimisers import optimisers
from luthier.recipe import Recipe
from luthier.stages.planning.memory import numbers_kept
from luthier.training.precision import choose_device

MARGIN = 1.2  # times the memory that is there; what is counted is less than a run takes, so nothing that fits is refused
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it
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
    states = numbers_kept(recipe.optim)
    needed, free = 4 * numbers + 4 * trained * (1 + states), _free()
    if needed <= MARGIN * free:
        return
    lighter = 4 * numbers + 4 * trained * (1 + numbers_kept(optimisers.get("adafactor")()))
    change = "optim.type=adafactor, or " if states > 1 and lighter <= free else ""
    raise SetupError(
        f"{recipe.model.path} does not fit: weights {_gib(4 * numbers)}, gradients {_gib(4 * trained)}, optimiser "
        f"{_gib(4 * trained * states)} make {_gib(needed)}, and {_gib(free)} are free",
        where="model.path",
        fix=f"{change}a smaller model; luthier plan says what fits, training.refuse_oversize=false tries all the same",
    )


def stored_numbers(folder: Path) -> int | None:
    """Return how many numbers the safetensors files of a folder hold; None where there are none that can be read."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    try:
        return sum(map(_numbers_in, files)) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _numbers_in(file: Path) -> int:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError("not a safetensors file")
        header = json.loads(stream.read(length))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _free() -> float:
    return float(available_memory_bytes() if choose_device() == "cpu" else torch.cuda.mem_get_info()[0])


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"
