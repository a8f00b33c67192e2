"""One step rule per file: how a window of micro-batches becomes a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.registry import Registry

if TYPE_CHECKING:
    from luthier.training.step_rules.step_rule import StepRule

PLAIN = "accumulate"
step_rules: Registry[Any] = Registry("luthier.training.step_rules", base="luthier.training.step_rules.step_rule:StepRule", noun="step rule")


def rule_of(chosen: Any) -> StepRule:
    """Return the step rule that a recipe names, or has with its settings."""
    rule: StepRule = step_rules.get(chosen)() if isinstance(chosen, str) else chosen
    return rule
