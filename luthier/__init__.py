"""Luthier: build large models from zero and fine-tune them, then measure, explain, shrink and serve them.

The verbs of the command line, in Python:

    run = luthier.train("reviews.yaml", epochs=3)
    run.evaluate()
    run.predict(["What a film!"])
    run = luthier.load("runs/reviews-001")
    for tick in luthier.ticks("reviews.yaml"):
        print(tick.step, tick.loss)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.version import __version__

if TYPE_CHECKING:
    from luthier.api import Run, classify, evaluate, find_rate, load, load_adapters, merge_adapters, plan, predict, ticks, train

__all__ = [
    "Run",
    "__version__",
    "classify",
    "evaluate",
    "find_rate",
    "load",
    "load_adapters",
    "merge_adapters",
    "plan",
    "predict",
    "ticks",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the interface on first use, so that `import luthier` takes no time."""
    if name in __all__:
        from luthier import api

        return getattr(api, name)
    raise AttributeError(f"module 'luthier' has no attribute '{name}'")
