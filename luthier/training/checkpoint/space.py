"""How much disk a checkpoint takes, and whether there is enough to start."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import SetupError
from luthier.core.work import Parts

CHECKPOINTS_THAT_MUST_FIT = 2  # the last one stays while the next is written
MIB = 2**20


def estimated_bytes(parts: Parts) -> int:
    """Return how large one checkpoint is at most: weights, and two moments of the trained ones, in float32."""
    weights = [(p, part.checkpointed == "all") for part in parts.values() for p in part.module.parameters()]
    besides = sum(getattr(module, "numbers_besides", 0) for part in parts.values() for module in part.module.modules())
    return 4 * besides + sum(4 * p.numel() * (3 if p.requires_grad else int(whole)) for p, whole in weights)


def check_space(root: Path, parts: Parts, free_bytes: int) -> None:
    """Refuse to start where the disk cannot take two checkpoints.

    Raises:
        SetupError: if too little space is free.
    """
    one = estimated_bytes(parts)
    needed = CHECKPOINTS_THAT_MUST_FIT * one
    if free_bytes < needed:
        raise SetupError(
            f"too little disk space to keep checkpoints: {free_bytes / MIB:.0f} MiB are free, {needed / MIB:.1f} MiB are needed "
            f"(one checkpoint takes {one / MIB:.1f} MiB, and {CHECKPOINTS_THAT_MUST_FIT} must fit)",
            where=str(root),
            fix="free some space, or name a folder on another disk with --output",
        )
