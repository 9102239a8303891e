"""Policy `makespan`: the earliest end of the last job (Gavel, OSDI'20, section 4.2).

Equalises goodput relative to the work that is left by water-filling, so that all jobs would end together. It needs to
know the work that is left; where it does not, a job is taken to be half done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Rows
from .shares import towards


@dataclass(frozen=True, slots=True)
class Makespan:
    """The earliest end of the last job: max-min of goodput over remaining work, by water-filling."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "makespan"

    def terms(self, problem: RoundProblem) -> Terms:
        """Target fraction of each configuration over the share of time served so far."""
        rows = Rows(problem, self.options)
        remaining = rows.remaining_work
        speed = np.where(remaining > 0, 1.0 / np.maximum(remaining, 1e-300), 0.0)
        speed = speed / max(float(np.max(rows.goodput * speed[:, None], initial=0.0)), 1e-300)
        return towards(rows, rows.goodput * speed[:, None])
