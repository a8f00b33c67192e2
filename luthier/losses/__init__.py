"""Level 1: what is minimised. One loss per file; each returns (sum, weight), never a mean."""

from luthier.core.registry import Registry

losses: Registry = Registry("luthier.losses", base="luthier.losses.loss:Loss", noun="loss")
