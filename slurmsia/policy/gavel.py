"""Policy `gavel`: heterogeneity-aware maximum total throughput with rigid requests (OSDI'20, section 4.1).

Each job runs at the number of GPUs that it asked for, on any type it allows; types are chosen by throughput relative
to the job's slowest type. As in the paper every job counts once, however many GPUs it asks for. Solved anew each
round, where the paper shares time between rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Rows
from .worth import finished


@dataclass(frozen=True, slots=True)
class Gavel:
    """maximise  sum over jobs of T[i, type] / min over types of T[i, type]."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "gavel"

    def terms(self, problem: RoundProblem) -> Terms:
        """Relative throughput; staying queued is worth 0; moves are free as in the paper."""
        rows = Rows(problem, self.options.model_copy(update={"rigid": True}))
        throughput = np.where(rows.usable, problem.matrix.throughput, 0.0)
        throughput = np.where(rows.usable & ~(throughput > 0), problem.matrix.goodput, throughput)
        slowest = np.min(throughput, axis=1, initial=np.inf, where=rows.usable)[:, None]
        relative = np.divide(throughput, slowest, out=np.zeros_like(throughput), where=np.isfinite(slowest))
        discount = rows.moved(by_paper=False)
        gain = relative * discount
        return finished(rows, gain=gain, queue=1.0, why={"relative-throughput": relative, "restart-cost": discount})
