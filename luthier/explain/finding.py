"""What a diagnosis is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing seen in a run, in plain words.

    Args:
        kind: Short name, such as `overfitting`.
        says: What it means, in a sentence or two.
        evidence: The numbers it was seen in.
        change: What to change, as the command line takes it: `training.epochs=6`; None where no key mends it.
        hint: How the new value compares with the old: `half of now`.
    """

    kind: str
    says: str
    evidence: str
    change: str | None = None
    hint: str = ""
