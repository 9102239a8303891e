"""Policy `maxmin`: heterogeneity-aware max-min fairness by water-filling (Gavel, OSDI'20, section 4.1).

Equalises each job's goodput relative to an equal share of the cluster. The fractions of time are the long-run target;
a round serves whoever is furthest behind its target.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Rows
from .shares import equal_share_goodput, towards


@dataclass(frozen=True, slots=True)
class MaxMin:
    """Max-min fairness of goodput over an equal share of every type, by water-filling."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "maxmin"

    def terms(self, problem: RoundProblem) -> Terms:
        """Target fraction of each configuration over the share of time served so far."""
        rows = Rows(problem, self.options)
        equal = equal_share_goodput(rows)
        weight = np.array([max(c.weight, 1e-9) if self.options.weights else 1.0 for c in problem.candidates])
        scale = 1.0 / np.maximum(equal * weight, 1e-300)
        return towards(rows, rows.goodput * np.where(equal > 0, scale, 0.0)[:, None])
