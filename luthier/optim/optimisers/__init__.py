"""One optimiser per file."""

from luthier.core.registry import Registry

optimisers: Registry = Registry("luthier.optim.optimisers", base="luthier.optim.optimisers.optimiser:Optimiser", noun="optimiser")
