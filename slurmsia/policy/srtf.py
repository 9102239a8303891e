"""Policy `srtf`: shortest remaining time first at the requested size; no solver.

Best for mean completion time when the work that is left is known; where it is not, a job is taken to be half done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import Order, RoundProblem
from .queueing import in_order
from .rows import Rows


@dataclass(frozen=True, slots=True)
class ShortestRemainingTime:
    """Serve by remaining work over the fastest goodput of the requested size."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "srtf"

    def terms(self, problem: RoundProblem) -> Order:
        """The shortest remaining time first; with weights on, time counts divided by the job's weight."""
        rows = Rows(problem, self.options)
        wanted = np.where(rows.requested, rows.goodput, 0.0).max(axis=1, initial=0.0)
        fastest = np.where(wanted > 0, wanted, rows.goodput.max(axis=1, initial=0.0))
        left_s = np.where(fastest > 0, rows.remaining_work / np.maximum(fastest, 1e-300), 1e18)
        if self.options.weights:
            left_s = left_s / np.array([max(c.weight, 1e-9) for c in problem.candidates])
        return in_order(rows, left_s)
