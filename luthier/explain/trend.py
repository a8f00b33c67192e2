"""The shape of a training loss in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.explain.curves import Points, series, smooth
from luthier.explain.story import Plain, Story

FEWEST_STEPS = 10
Losses = np.ndarray


@dataclass(frozen=True)
class Trend:
    """How the training loss went.

    Args:
        num_steps: Steps with a finite loss.
        num_skipped: Steps that were not applied because the loss or the gradient was not finite.
        start: Loss at the first steps.
        end: Loss at the last steps.
        floor: Loss that cannot be undercut, from label smoothing.
        late_fall: How much the loss fell from the fifth before last to the last fifth.
        late_noise: Standard error of `late_fall`.
        late_share: Which part of the whole fall came in the second half.
        climb: The largest lasting rise above an earlier low.
        num_spikes: Steps after the warm-up whose loss stood far above where it began, and above any of the first steps: batches of
            long rows differ from those of short ones from the start.
    """

    num_steps: int
    num_skipped: int
    start: float
    end: float
    floor: float
    late_fall: float
    late_noise: float
    late_share: float
    climb: float
    num_spikes: int

    @property
    def height(self) -> float:
        """How far the loss could fall."""
        return max(self.start - self.floor, 1e-9)

    @property
    def left(self) -> float:
        """Share of that height that was left at the end: 1 where nothing was learnt, 0 where all was."""
        return (self.end - self.floor) / self.height

    @property
    def still_falling(self) -> bool:
        """Whether the loss fell in the last fifth by more than chance and by enough to matter."""
        return self.late_fall > max(2.5 * self.late_noise, 0.04 * self.height)

    @property
    def fell_steadily(self) -> bool:
        """Whether the loss went down all the way, not only at first."""
        return self.late_share > 0.2 and self.start - self.end > 2.5 * self.late_noise


def trend_of(story: Story) -> Trend | None:
    """Measure the training loss of a run; None where there are too few steps to judge."""
    points = series(story.ticks, "loss")
    if len(points) < FEWEST_STEPS:
        return None
    losses = np.array([value for _, value in points])
    fifth = max(len(losses) // 5, 3)
    before, last = losses[-2 * fifth : -fifth], losses[-fifth:]
    start = float(np.mean(losses[: max(len(losses) // 30, 3)]))
    return Trend(
        num_steps=len(losses),
        num_skipped=sum(bool(tick.get("skipped")) or _is_lost(tick) for tick in story.ticks),
        start=start,
        end=float(np.mean(losses[-max(len(losses) // 10, 3) :])),
        floor=smoothing_floor(story),
        late_fall=float(before.mean() - last.mean()),
        late_noise=math.sqrt((before.var(ddof=1) + last.var(ddof=1)) / fifth),
        late_share=_late_share(losses, fifth),
        climb=_climb(points),
        num_spikes=_num_spikes(losses, start),
    )


def smoothing_floor(story: Story) -> float:
    """Return the lowest loss that label smoothing leaves: the entropy of its targets, in nats."""
    smoothing, num_classes = story.setting("loss.label_smoothing", 0.0), len(story.classes())
    if not smoothing or num_classes < 2:
        return 0.0
    wrong = float(smoothing) / num_classes
    right = 1 - (num_classes - 1) * wrong
    return -right * math.log(right) - (num_classes - 1) * wrong * math.log(wrong)


def _late_share(losses: Losses, fifth: int) -> float:
    middle = len(losses) // 2
    first, last = losses[:fifth].mean(), losses[-fifth:].mean()
    half = losses[middle - fifth // 2 : middle + fifth // 2 + 1].mean()
    return float((half - last) / (first - last)) if first > last else 0.0


def _climb(points: Points) -> float:
    values = np.array([value for _, value in smooth(points)])
    return float(np.max(values - np.minimum.accumulate(values)))


def _num_spikes(losses: Losses, start: float) -> int:
    early, later = losses[: max(len(losses) // 10, 1)], losses[len(losses) // 10 :]
    return int(np.sum(later > max(1.3 * start, 1.3 * float(early.max()), 3 * float(np.median(later)))))


def _is_lost(tick: Plain) -> bool:
    loss = tick.get("loss")
    return "loss" in tick and (loss is None or not math.isfinite(float(loss)))


def lowest(points: Sequence[tuple[float, float]]) -> int:
    """Return the index of the lowest value."""
    return min(range(len(points)), key=lambda index: points[index][1])
