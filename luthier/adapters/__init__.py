"""Level 2: small trained parts in a frozen model. One adapter per file."""

from luthier.core.registry import Registry

adapters: Registry = Registry("luthier.adapters", base="luthier.adapters.adapter:Adapter", noun="adapter")
