"""Which layers are trained as time goes by: switched before each step, and what never has its turn is frozen for good."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.core.tick import Tick
from luthier.core.work import Parts
from luthier.models.blocks import body_of, depths_of, levels_of
from luthier.models.freezing import hold_still
from luthier.optim.schedules.schedule import Horizon
from luthier.recipe import Recipe

log = logging.getLogger("luthier")
KEY = "unfreeze"


class Turns:
    """The layers of one model that take turns in being trained.

    All of them are in the optimiser from the start. Where a layer has no gradient the optimiser passes over it, decay included; its moments
    begin with its first gradient.

    Args:
        recipe: The recipe, which has an `unfreeze` section.
        module: The model; what is frozen in it already stays so.
        horizon: Length of the run.

    Raises:
        ConfigError: if the layers cannot be told, or nothing would be trained at some step.
    """

    def __init__(self, recipe: Recipe, module: nn.Module, horizon: Horizon) -> None:
        assert recipe.unfreeze is not None
        self._way, self._horizon, self._seed = recipe.unfreeze, horizon, recipe.training.seed
        self._num_blocks = len(levels_of(module, KEY))
        self._by_depth: dict[int, list[nn.Parameter]] = {}
        depths = depths_of(module, KEY)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self._by_depth.setdefault(depths[name], []).append(parameter)
        self._now: frozenset[int] | None = None
        every = [self._of(period) for period in range(self._way.period(horizon.total_steps - 1, horizon) + 1)]
        if self._num_blocks + 1 not in self._by_depth and not all(turn & self._by_depth.keys() for turn in every):
            what = (
                f"nothing that is trained follows the blocks of {type(body_of(module)).__name__}, so at some steps nothing would be trained"
            )
            raise ConfigError([Fault(KEY, what, "begin with a block: unfreeze.start=1")])
        self._ever = frozenset[int]().union(*every)

    def at(self, step: int) -> frozenset[int]:
        """Return the depths below the head that are trained at a step."""
        return self._of(self._way.period(step, self._horizon))

    def freeze_what_never_is_trained(self) -> None:
        """Freeze the layers whose turn does not come."""
        for depth in range(self._num_blocks + 1):
            if depth not in self._ever:
                for parameter in self._by_depth.pop(depth, []):
                    parameter.requires_grad_(False)

    def switch(self, step: int) -> None:
        """Let the layers of a step have gradients, and no others; says so when layers come in."""
        turn = self.at(step)
        if turn == self._now or step >= self._horizon.total_steps:
            return
        for depth, parameters in self._by_depth.items():
            for parameter in parameters:
                parameter.requires_grad_(depth in turn or depth > self._num_blocks)
        if self._now is None or turn > self._now:
            log.info("from step %d on: %s", step + 1, self._words(turn))
        self._now = turn

    def _of(self, period: int) -> frozenset[int]:
        return self._way.trained(period, self._num_blocks, self._seed)

    def _words(self, turn: frozenset[int]) -> str:
        blocks = sorted((turn - {0}) & self._by_depth.keys())
        named = ["the embeddings"] if turn & {0} & self._by_depth.keys() else []
        if len(blocks) > 2 and blocks[-1] - blocks[0] == len(blocks) - 1:
            named.append(f"blocks {blocks[0]} to {blocks[-1]}")
        else:
            named += [f"block {number}" for number in blocks]
        return f"the head and {', '.join(named)} are trained" if named else "the head alone is trained"


def turns_of(recipe: Recipe, parts: Parts, horizon: Horizon, num_processes: int) -> Turns | None:
    """Return the layers that take turns, where the recipe has `unfreeze`; freezes those whose turn never comes.

    Raises:
        ConfigError: if the layers cannot be told, nothing would be trained at some step, or several processes train.
    """
    if recipe.unfreeze is None:
        return None
    if num_processes > 1:
        what = f"does not go with {num_processes} processes, which agree at the start which gradients they exchange"
        raise ConfigError([Fault(KEY, what, "train in one process, or leave unfreeze out")])
    module = parts["model"].module
    turns = Turns(recipe, module, horizon)
    turns.freeze_what_never_is_trained()
    hold_still(module)
    return turns


def taking_turns(turns: Turns | None, steps: Iterator[Tick], step: int) -> Iterator[Tick]:
    """Yield the ticks of a loop, with the right layers trained at each of its steps.

    Args:
        turns: The layers, or None where all are trained throughout.
        steps: The loop.
        step: Steps that were done before.
    """
    if turns is not None:
        turns.switch(step)
    for tick in steps:
        if turns is not None:
            turns.switch(tick.step)
        yield tick
