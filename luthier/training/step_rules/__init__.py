"""One step rule per file: how a window of micro-batches becomes a gradient."""

from luthier.core.registry import Registry

step_rules: Registry = Registry("luthier.training.step_rules", base="luthier.training.step_rules.step_rule:StepRule", noun="step rule")
