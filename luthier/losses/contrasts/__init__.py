"""Losses over the vectors of a batch: rows of one class are drawn together, others are pushed apart. One per file."""

from typing import Any

from luthier.core.registry import Registry

contrasts: Registry[Any] = Registry("luthier.losses.contrasts", base="luthier.losses.contrasts.contrast:Contrast", noun="contrast")
USUAL = "supervised-contrastive"
