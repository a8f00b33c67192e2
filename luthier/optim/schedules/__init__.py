"""One learning-rate schedule per file."""

from luthier.core.registry import Registry

schedules: Registry = Registry("luthier.optim.schedules", base="luthier.optim.schedules.schedule:Schedule", noun="schedule")
