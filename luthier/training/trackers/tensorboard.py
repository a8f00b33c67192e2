"""TensorBoard event files in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.tick import Tick
from luthier.training.trackers import trackers
from luthier.training.trackers.tracker import Tracker, numbers


@trackers.add
class TensorBoard(Tracker):
    """Writes `tensorboard/`; look at it with `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path, *, project: str, recipe: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def tick(self, tick: Tick) -> None:
        """Write the numbers of one step, all in one event."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(tick).items()]
        self._writer._get_file_writer().add_summary(Summary(value=values), tick.step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
