"""What a recipe asks of a step beside one pass of its rows: further passes, and old rows beside the new ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from luthier.recipe import Recipe
from luthier.stages.planning.shape import Kept
from luthier.stages.planning.steps import Steps
from luthier.training.step_rules import rule_of


@dataclass(frozen=True)
class Passes:
    """How much more a step is than one pass of its rows.

    Args:
        each: How often a row goes forward and backward through the model.
        kept: What is kept for the backward pass at a time, in that of the task's own loss.
        old_rows: Old rows beside each new one, on average (`keep.replay`).
    """

    each: float
    kept: float
    old_rows: float

    def of_loss(self, kept: Kept) -> Kept:
        """Return what the passes of the loss keep, from what the task's own keep."""
        return Kept(kept.fixed * self.kept, kept.per_row * self.kept, kept.largest_per_row)

    def with_old_rows(self, kept: Kept) -> Kept:
        """Return what a new row keeps together with the old rows that come with it."""
        return replace(kept, per_row=kept.per_row * (1 + self.old_rows))

    def lengthened(self, steps: Steps) -> Steps:
        """Return the micro-batches with old rows in them, taken to be as long as the new ones."""
        more = 1 + self.old_rows
        return replace(steps, padded_M=steps.padded_M * more, tokens=steps.tokens * more, padded=steps.padded * more)

    def as_dict(self) -> dict[str, float]:
        """Return as plain data what is more than usual."""
        found = {"passes": round(self.each, 4)} if self.each != 1 else {}
        return found | ({"old_rows": round(self.old_rows, 4)} if self.old_rows else {})


def passes_of(recipe: Recipe) -> Passes:
    """Return what a recipe asks of a step.

    R-Drop computes every text twice. SMART goes through the model once for each move of a text, and once more, beside the usual pass, which
    is kept meanwhile. A step rule has passes of its own, each of all that the loss asks for.

    Args:
        recipe: The recipe.
    """
    loss, keep = recipe.loss, recipe.keep
    twice = 2.0 if loss is not None and loss.r_drop else 1.0
    smart = loss.smart if loss is not None else None
    moved = 0.0 if smart is None else smart.steps + 1.0
    share = 0.0 if keep is None or keep.replay is None else keep.replay.share
    kept = 1.0 if smart is None else 1 + 1 / twice
    return Passes(rule_of(recipe.training.step_rule).passes * (twice + moved), kept, share / (1 - share))
