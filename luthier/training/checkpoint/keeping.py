"""Where the state of a run is kept between its steps: checkpoints in one folder, written patiently, removed with care."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from luthier.training import checkpoint
from luthier.training.checkpoint import Saved
from luthier.training.patience import until_written
from luthier.training.state import RandomState


class Keeping(Protocol):
    """Where the state of the run is kept."""

    def save(self) -> str:
        """Write a checkpoint, remove old ones, and return its name; waits while the disk is full."""

    def put_back_weights(self) -> str | None:
        """Put the weights of the newest checkpoint that verifies back; returns its name, or None where there is none."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run of one process.

    Args:
        root: Their folder.
        saved: What one takes.
        keep: How many of the newest stay.
        check: Called while the disk is full; may raise to give up.
    """

    root: Path
    saved: Saved
    keep: int
    check: Callable[[], None]

    def save(self, others: Sequence[RandomState] = ()) -> str:
        """Write a checkpoint, remove old ones, and return its name; waits while the disk is full.

        Args:
            others: Random generators of other processes, by rank from 1.
        """
        needed = checkpoint.estimated_bytes(self.saved.parts)
        folder = until_written(lambda: checkpoint.save(self.root, self.saved, others), self.root, needed=needed, check=self.check)
        self.rotate()
        return folder.name

    def rotate(self) -> None:
        """Remove old checkpoints, but never the best."""
        checkpoint.rotate(self.root, keep=self.keep, best=self.saved.state.best_step)

    def put_back_weights(self) -> str | None:
        """Put the weights of the newest checkpoint that verifies back; returns its name, or None where there is none."""
        folder, _ = checkpoint.newest_valid(self.root)
        if folder is None:
            return None
        checkpoint.load_parts(folder, self.saved.parts)
        return folder.name
