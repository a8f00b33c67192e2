"""What an adapter does in every step of a training besides being trained: a term of the loss, and changes after the optimiser's step."""

from __future__ import annotations

from luthier.adapters.adapter import Adapter
from luthier.adapters.injection.follower import Follower
from luthier.core.work import Part, Parts
from luthier.optim.schedules.schedule import Horizon
from luthier.training.penalty import Penalised
from luthier.training.step_rules.step_rule import Losses

FOLLOWER = "follower"


def add_follower(adapter: Adapter | None, parts: Parts, horizon: Horizon) -> None:
    """Put what follows the adapter's training beside the parts, where its method has such a thing; checkpoints hold its memory then."""
    follower = None if adapter is None else adapter.follower(parts["model"].module, horizon)
    if follower is not None:
        parts[FOLLOWER] = Part(follower, "ema")  # like averages: no forward pass goes through it


def follower_of(parts: Parts) -> Follower | None:
    """Return what follows the training, or None."""
    module = parts[FOLLOWER].module if FOLLOWER in parts else None
    assert module is None or isinstance(module, Follower)
    return module


def with_penalty(work: Losses, parts: Parts) -> Losses:
    """Return the task at work with the follower's term among its losses, where there is one."""
    follower = follower_of(parts)
    if follower is None or follower.coefficient == 0:
        return work
    return Penalised(work, follower.term, follower.penalty, follower.coefficient)
