"""Policy `sia`: the published program without the public code's rounding (SOSP'23, section 3.4).

minimise  sum_i sum_c A x + lambda_n (J - sum x)  with  A = (r x unit x G / min G)^p  for p < 0, and maximise it with
-lambda_n for p > 0. Infeasible configurations have no variable. Hysteresis, ageing and weights are off by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Rows
from .worth import finished

#: A restart factor of 0 would cost infinitely much; this much is never worth it either.
_LARGEST_COST = 1e9


@dataclass(frozen=True, slots=True)
class Sia:
    """The default policy: cluster-wide power mean of normalised goodput, moves discounted by restarts so far."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "sia"

    def terms(self, problem: RoundProblem) -> Terms:
        """Gain of each configuration over staying queued; the reported objective is the paper's."""
        rows = Rows(problem, self.options)
        p, queue = self.options.sia.p, self.options.sia.lambda_n
        discount = rows.moved(by_paper=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            power = np.minimum(np.where(rows.usable, rows.normalised * discount, 1.0) ** p, _LARGEST_COST)
        minimise = p < 0
        return finished(
            rows,
            gain=queue - power if minimise else power + queue,
            queue=queue,
            sign=-1.0 if minimise else 1.0,
            offset=queue * len(rows.models) if minimise else -queue * len(rows.models),
            why={"goodput": rows.normalised, "restart-cost": discount, "queue": np.full((len(rows.models), 1), queue)},
        )
