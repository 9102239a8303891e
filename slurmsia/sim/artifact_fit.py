"""The public code's fit of step times: L-BFGS-B from one fixed start, stopped early (ARTIFACT.md section 2).

Where it stops is part of what the published numbers are, so ``--physics artifact`` fits like this and nothing else
does: production's fit (`slurmsia.models.fit`) is better and faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
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
    return _fit(
        tuple(
            sorted(
                (o.nodes, o.gpus, o.local_batch, o.step_sum_s / o.count, (o.step_sum_s - o.sync_sum_s) / o.count)
                for o in observations
            )
        )
    )


@lru_cache(maxsize=1 << 14)
def _fit(points: tuple[tuple[int, int, float, float, float], ...]) -> ThroughputParams:
    """From (nodes, GPUs, micro-batch, step, micro-batch seconds); jobs of one application begin with equal points."""
    from scipy.optimize import Bounds, minimize

    nodes, gpus, local, step_s, compute_s = np.array(points, dtype=np.float64).T
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
    found = minimize(loss.value, start, jac=loss.gradient, bounds=Bounds(low, high, keep_feasible=True), tol=_TOLERANCE)
    x = [float(value) for value in found.x]
    if not across.any():
        x[_ALPHA_N] = max(x[_ALPHA_N], 1.1 * x[_ALPHA_R])
        x[_BETA_N] = max(x[_BETA_N], 1.1 * x[_BETA_R])
    return ThroughputParams(*x)


class _Loss:
    """RMS log error of micro-batch times plus that of step times plus the two regularisers, with its gradient.

    The minimiser asks for both at each point, one after the other: the gradient is kept from the value's pass.
    """

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
        self.nothing = (1.0 - self.across - self.within) * _LOWEST
        self.of_compute = np.stack((np.ones(len(local)), local))
        self.of_sync = np.stack((self.across, self.across * more, self.within, self.within * more))
        self._asked = b""
        self._gradient: Any = None

    def value(self, x: Floats) -> float:
        """The loss at ``x`` [7]."""
        value, self._gradient = self._both(x)
        self._asked = x.tobytes()
        return value

    def gradient(self, x: Floats) -> Any:
        """[7] of the loss at ``x``."""
        return self._gradient if x.tobytes() == self._asked else self._both(x)[1]

    def _both(self, x: Floats) -> tuple[float, Any]:
        alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r, gamma = x.tolist()
        compute = alpha_c + beta_c * self.local
        sync = (
            self.across * (alpha_n + beta_n * self.more) + self.within * (alpha_r + beta_r * self.more) + self.nothing
        )
        log_compute, log_sync = np.log(compute), np.log(sync)
        by_compute, by_sync = compute**gamma, sync**gamma
        both = by_compute + by_sync
        log_both = np.log(both)
        off_compute, off_step = log_compute - self.log_compute, log_both / gamma - self.log_step
        count = len(self.local)
        rms_compute = math.sqrt(float(off_compute @ off_compute) / count)
        rms_step = math.sqrt(float(off_step @ off_step) / count)
        ratio_n, ratio_r = beta_n / alpha_n, beta_r / alpha_r
        value = rms_compute + rms_step + 1e-3 * (gamma - 1.0) ** 2 + 1e-2 * (ratio_n**2 + ratio_r**2)
        pull_step = off_step / (count * max(rms_step, 1e-12))
        per_both = pull_step / both
        d_compute = (off_compute / (count * max(rms_compute, 1e-12)) + per_both * by_compute) / compute
        d_sync = per_both * by_sync / sync
        d_gamma = (by_compute * log_compute + by_sync * log_sync) @ per_both / gamma - log_both @ pull_step / gamma**2
        by_alpha_c, by_beta_c = (self.of_compute @ d_compute).tolist()
        by_alpha_n, by_beta_n, by_alpha_r, by_beta_r = (self.of_sync @ d_sync).tolist()
        gradient = np.array(
            [
                by_alpha_c,
                by_beta_c,
                by_alpha_n - 2e-2 * ratio_n**2 / alpha_n,
                by_beta_n + 2e-2 * ratio_n / alpha_n,
                by_alpha_r - 2e-2 * ratio_r**2 / alpha_r,
                by_beta_r + 2e-2 * ratio_r / alpha_r,
                float(d_gamma) + 2e-3 * (gamma - 1.0),
            ]
        )
        return value, gradient
