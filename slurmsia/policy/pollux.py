"""Policy `pollux`: goodput fairness that does not tell GPU types apart (OSDI'21), for comparison.

Every type looks the same: the goodput of a number of GPUs is its geometric mean over the job's types. Jobs are capped
at 16 GPUs, as in the public comparison on a heterogeneous cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Floats, Rows
from .worth import finished

#: Staying queued costs this many times the job's worst configuration.
_QUEUE = 1.1


@dataclass(frozen=True, slots=True)
class Pollux:
    """minimise  sum (r x goodput / goodput of a fair share)^p  with p = -1."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "pollux"

    def terms(self, problem: RoundProblem) -> Terms:
        """Gain over staying queued; equal for all types, so the solver chooses among them blindly."""
        rows = Rows(problem, self.options)
        allowed = rows.usable & (rows.gpus <= self.options.pollux.max_gpus)[None, :]
        goodput = blind(rows.goodput, allowed, rows.gpus)
        managed = max(int(rows.managed.sum()), 1)
        share = max(sum(problem.total_gpus.values()) / managed, 1.0)
        speedup = np.divide(goodput, _at_share(goodput, allowed, rows.gpus, share)[:, None])
        discount = rows.moved(by_paper=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = np.where(allowed, np.where(allowed, speedup * discount, 1.0) ** self.options.pollux.p, np.inf)
            fair = np.where(allowed, np.where(allowed, speedup, 1.0) ** self.options.pollux.p, 0.0)
        queue = _QUEUE * fair.max(axis=1, initial=0.0)[:, None]
        gain = np.where(allowed, np.maximum(queue - cost, -1e9), -np.inf)
        return finished(
            rows,
            gain=gain,
            queue=_QUEUE,
            sign=-1.0,
            offset=float(queue.sum()),
            why={"speedup": speedup, "restart-cost": discount, "queue": queue},
        )


def blind(goodput: Floats, allowed: np.ndarray, gpus: Floats) -> Floats:
    """[jobs, C]: the geometric mean of a row's goodput over the allowed columns with the same number of GPUs."""
    merged = np.zeros_like(goodput)
    logs = np.log(np.where(allowed, goodput, 1.0))
    for count in np.unique(gpus):
        same = gpus == count
        ways = allowed[:, same].sum(axis=1)
        mean = np.exp((logs[:, same] * allowed[:, same]).sum(axis=1) / np.maximum(ways, 1))
        merged[:, same] = np.where(allowed[:, same], mean[:, None], 0.0)
    return merged


def _at_share(goodput: Floats, allowed: np.ndarray, gpus: Floats, share: float) -> Floats:
    """[jobs]: goodput of the largest allowed configuration within the fair share, else of the smallest one."""
    within = allowed & (gpus <= share)[None, :]
    largest = np.where(within, gpus, -1.0).argmax(axis=1)
    smallest = np.where(allowed, gpus, np.inf).argmin(axis=1)
    at = np.where(within.any(axis=1), largest, smallest)
    found = goodput[np.arange(len(goodput)), at]
    return np.asarray(np.where(found > 0, found, 1.0))
