"""Level 1: scores of a classifier, their intervals, the comparison of two runs, and the details behind a score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.registry import Registry

if TYPE_CHECKING:
    from luthier.metrics.metric import Metric

metrics: Registry[Metric] = Registry("luthier.metrics.kinds", base="luthier.metrics.metric:Metric", noun="metric")
"""Every metric by name: one file in `luthier/metrics/kinds/`, one class, one or several score keys."""
