"""The public code's fit of step times: L-BFGS-B from one fixed start, stopped early (ARTIFACT.md section 2).

Where it stops is part of what the published numbers are; production's fit (`slurmsia.models.fit`) is better and
faster and is the default even here. Only for ``--physics artifact --option fit=published``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..history import Observation
from ..models.base import ThroughputParams

Floats = NDArray[np.float64]

_LOWEST = 1e-8
_TOLERANCE = 1e-5
_START = (0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 1.001)
_ALPHA_C, _ALPHA_N, _BETA_N, _ALPHA_R, _BETA_R, _GAMMA = 0, 2, 3, 4, 5, 6


def artifact_fit(observations: Iterable[Observation]) -> ThroughputParams:
    """Seven parameters from unweighted points (one observation each); scales never seen are pinned optimistic."""
    from scipy.optimize import Bounds, minimize

    points = list(observations)
    nodes = np.array([o.nodes for o in points])
    gpus = np.array([o.gpus for o in points])
    local = np.array([o.local_batch for o in points], dtype=np.float64)
    step_s = np.array([o.step_sum_s / o.count for o in points])
    compute_s = step_s - np.array([o.sync_sum_s / o.count for o in points])
    start, low, high = list(_START), [_LOWEST] * 6 + [1.0], [np.inf] * 6 + [10.0]

    def pin(index: int, value: float) -> None:
        start[index] = low[index] = high[index] = value

    if len(set(local.tolist())) == 1:
        pin(_ALPHA_C, float(compute_s.mean()) / 2.0)
    across = nodes > 1
    within = ~across & (gpus > 1)
    for index, seen in ((_ALPHA_N, across), (_ALPHA_R, within)):
        if not seen.any():
            pin(index, _LOWEST)
            pin(index + 1, _LOWEST)
    if not (gpus > 2).any():
        pin(_BETA_N, _LOWEST)
        pin(_BETA_R, _LOWEST)
    loss = _Loss(local, np.log(step_s), np.log(compute_s), across, within, np.maximum(gpus - 2.0, _LOWEST))
    found = minimize(loss, start, jac=True, bounds=Bounds(low, high, keep_feasible=True), tol=_TOLERANCE)
    x = [float(value) for value in found.x]
    if not across.any():
        x[_ALPHA_N] = max(x[_ALPHA_N], 1.1 * x[_ALPHA_R])
        x[_BETA_N] = max(x[_BETA_N], 1.1 * x[_BETA_R])
    return ThroughputParams(*x)


class _Loss:
    """RMS log error of micro-batch times plus that of step times plus the two regularisers, with its gradient."""

    def __init__(
        self,
        local: Floats,
        log_step: Floats,
        log_compute: Floats,
        across: NDArray[np.bool_],
        within: NDArray[np.bool_],
        more: Floats,
    ) -> None:
        self.local, self.log_step, self.log_compute, self.more = local, log_step, log_compute, more
        self.across, self.within = across.astype(np.float64), within.astype(np.float64)
        self.alone = 1.0 - self.across - self.within

    def __call__(self, x: Floats) -> tuple[float, Any]:
        gamma = x[_GAMMA]
        compute = x[0] + x[1] * self.local
        sync = (
            self.across * (x[_ALPHA_N] + x[_BETA_N] * self.more)
            + self.within * (x[_ALPHA_R] + x[_BETA_R] * self.more)
            + self.alone * _LOWEST
        )
        log_compute, log_sync = np.log(compute), np.log(sync)
        by_compute, by_sync = compute**gamma, sync**gamma
        both = by_compute + by_sync
        log_both = np.log(both)
        off_compute, off_step = log_compute - self.log_compute, log_both / gamma - self.log_step
        rms_compute = float(np.sqrt(np.mean(off_compute**2)))
        rms_step = float(np.sqrt(np.mean(off_step**2)))
        ratio_n, ratio_r = x[_BETA_N] / x[_ALPHA_N], x[_BETA_R] / x[_ALPHA_R]
        value = rms_compute + rms_step + 1e-3 * (gamma - 1.0) ** 2 + 1e-2 * (ratio_n**2 + ratio_r**2)
        count = len(self.local)
        pull_compute = off_compute / (count * max(rms_compute, 1e-12))
        pull_step = off_step / (count * max(rms_step, 1e-12))
        d_compute = pull_compute / compute + pull_step * by_compute / (compute * both)
        d_sync = pull_step * by_sync / (sync * both)
        d_gamma = (by_compute * log_compute + by_sync * log_sync) / (both * gamma) - log_both / gamma**2
        n, r = d_sync * self.across, d_sync * self.within
        gradient = np.array(
            [
                d_compute.sum(),
                (d_compute * self.local).sum(),
                n.sum() - 2e-2 * ratio_n**2 / x[_ALPHA_N],
                (n * self.more).sum() + 2e-2 * ratio_n / x[_ALPHA_N],
                r.sum() - 2e-2 * ratio_r**2 / x[_ALPHA_R],
                (r * self.more).sum() + 2e-2 * ratio_r / x[_ALPHA_R],
                (pull_step * d_gamma).sum() + 2e-3 * (gamma - 1.0),
            ]
        )
        return float(value), gradient
