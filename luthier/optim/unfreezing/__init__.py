"""One way of training other layers as time goes by per file."""

from luthier.core.registry import Registry

unfreezings: Registry = Registry("luthier.optim.unfreezing", base="luthier.optim.unfreezing.unfreezing:Unfreezing", noun="unfreezing")
