"""Level 2: one task per file. A task says what its rows, heads, losses, metrics and answers are."""

from luthier.core.registry import Registry

tasks: Registry = Registry("luthier.tasks", base="luthier.tasks.task:Task", noun="task")
