"""Equal shares of a cluster, and values that lead a round towards target fractions of time.

Shared by the fairness policies; the target itself comes from `waterfill`.
"""

from __future__ import annotations

import numpy as np

from .base import Terms
from .rows import Floats, Rows
from .waterfill import waterfill
from .worth import finished

#: Share of time served so far that counts as nothing: a new job is this far behind at most.
_NEW = 0.05
#: Worth of goodput beside the target, so that GPUs that the target leaves idle are still used.
_WORK_CONSERVING = 0.01


def equal_share_goodput(rows: Rows) -> Floats:
    """[jobs]: goodput of one job that had 1/J of the time of every type, each at its fastest usable configuration."""
    types = {shape.gpu_type for shape in rows.problem.shapes}
    total = np.zeros(len(rows.models))
    jobs = max(int(rows.managed.sum()), 1)
    for gpu_type in sorted(types):
        mine = np.array([shape.gpu_type == gpu_type for shape in rows.problem.shapes])
        gpus = rows.problem.total_gpus.get(gpu_type, 0)
        per_gpu = np.where(mine[None, :], rows.goodput / rows.gpus[None, :], 0.0).max(axis=1, initial=0.0)
        largest = np.where(mine[None, :], rows.goodput, 0.0).max(axis=1, initial=0.0)
        total += np.minimum(per_gpu * gpus / jobs, largest)
    return total


def towards(rows: Rows, rate: Floats) -> Terms:
    """Terms that follow the water-filled fractions of ``rate`` [jobs, C], the furthest behind first."""
    problem = rows.problem
    live = np.where(rows.managed[:, None], rate, 0.0)
    need = [
        (np.array([s.gpus if s.gpu_type == kind else 0 for s in problem.shapes], dtype=np.float64), float(gpus))
        for kind, gpus in sorted(problem.capacity_gpus.items())
    ]
    target = waterfill(live, need)
    behind = 1.0 / (_NEW + rows.share_served)[:, None]
    top = np.maximum(live.max(axis=1, initial=0.0), 1e-300)[:, None]
    discount = rows.moved(by_paper=False)
    gain = (target + _WORK_CONSERVING * live / top) * behind * discount
    why = {"target-share": target, "behind": behind, "restart-cost": discount}
    return finished(rows, gain=gain, queue=float(np.max(gain, initial=0.0)), why=why)
