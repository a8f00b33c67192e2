"""Losses over pairs of texts, each text a vector: by scores, or by which texts belong together. One per file."""

from typing import Any

from luthier.core.registry import Registry

pair_losses: Registry[Any] = Registry("luthier.losses.pairs", base="luthier.losses.pairs.pair_loss:PairLoss", noun="pair loss")
FOR_SCORES, FOR_PAIRS = "cosent", "multiple-negatives"
"""What is minimised where nothing is named: for pairs that have scores, and for pairs that belong together."""
