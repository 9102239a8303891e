"""Policy `ftf`: finish-time fairness (Themis, NSDI'20).

rho = expected time to finish here over the time alone on an equal share of the cluster. A round gives GPUs so that
the largest rho falls most: what a configuration takes off a job's rho, weighted steeply by how bad the rho is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Rows
from .shares import equal_share_goodput
from .worth import finished


@dataclass(frozen=True, slots=True)
class FinishTimeFairness:
    """maximise  sum base^(rho_i - max rho) x (rho if queued this round - rho if served by c this round)."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "ftf"

    def terms(self, problem: RoundProblem) -> Terms:
        """Fall of rho within one round, steeply weighted towards the jobs with the largest rho."""
        rows = Rows(problem, self.options)
        fair = np.maximum(equal_share_goodput(rows), 1e-300)
        age = np.array([max(c.age_s, 0.0) for c in problem.candidates])
        left, done = rows.remaining_work, rows.done_work
        alone_s = np.maximum((left + done) / fair, 1.0)
        rho = (age + problem.round_s + left / fair) / alone_s
        worst = float(np.max(rho, initial=0.0, where=rows.managed))
        steep = self.options.fairness.leximin_base ** np.maximum(rho - worst, -12.0)
        discount = rows.moved(by_paper=False)
        served = np.minimum(rows.goodput * discount * problem.round_s, left[:, None])
        fall = served / (fair * alone_s)[:, None]
        scale = max(float(np.max(fall * steep[:, None], initial=0.0)), 1e-300)
        gain = fall * steep[:, None] / scale
        why = {"rho": rho[:, None], "fall-of-rho": fall, "restart-cost": discount}
        return finished(rows, gain=gain, queue=1.0, why=why)
