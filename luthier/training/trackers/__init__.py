"""One tracker per file: where the stream of ticks is shown besides events.jsonl."""

from luthier.core.registry import Registry

trackers: Registry = Registry("luthier.training.trackers", base="luthier.training.trackers.tracker:Tracker", noun="tracker")
