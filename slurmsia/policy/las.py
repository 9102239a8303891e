"""Policy `las`: least attained service first, in discrete queues (Tiresias, NSDI'19); no solver.

A job falls to the next queue when its GPU-hours pass a bound; within a queue jobs go first come, first served. It
needs no knowledge of the work that is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import Order, RoundProblem
from .queueing import in_order
from .rows import Rows


@dataclass(frozen=True, slots=True)
class LeastAttainedService:
    """Serve by queue of attained GPU-hours, then by time of submission."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "las"

    def terms(self, problem: RoundProblem) -> Order:
        """The queue with the least service first; with weights on, service counts divided by the job's weight."""
        rows = Rows(problem, self.options)
        hours = np.array([max(c.service_gpu_s, 0.0) / 3600.0 for c in problem.candidates])
        if self.options.weights:
            hours = hours / np.array([max(c.weight, 1e-9) for c in problem.candidates])
        bounds = np.array(sorted(self.options.las.queue_gpu_h))
        return in_order(rows, np.searchsorted(bounds, hours, side="right").astype(np.float64))
