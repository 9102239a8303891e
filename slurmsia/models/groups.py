"""Observations pooled into what a fit sees: one mean step time per shape and batch, with its weight.

Pure functions of sufficient statistics. Never raises: what cannot be used is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..history import Observation

Floats = NDArray[np.float64]

#: Times and batches beyond these are clipped before the fit (a step of 0.1 us or of 30 years is a broken clock).
TIME_RANGE_S = (1e-7, 1e9)
BATCH_RANGE = (1e-3, 1e12)
#: Relative error that remains however many steps are averaged: the model is not the machine.
MODEL_ERROR = 0.05
#: Relative spread of a single step when there is only one and its spread cannot be known.
SINGLE_STEP_SPREAD = 0.3
#: No group counts for less than this makes it (one step that varied by a factor of 100).
LARGEST_VARIANCE = 1e4
#: Above this relative spread the steps of a group are taken to contain one slow one (first step, paused node).
OUTLIER_SPREAD = 0.3


_INFINITE = math.inf


@dataclass(frozen=True, slots=True)
class Groups:
    """Observations pooled by (nodes, gpus, local batch, accumulation), as arrays of one length.

    ``step_s``: seconds of a full optimiser step; ``grad_s``: seconds of one micro-batch, NaN where synchronisation
    was not reported; ``weight`` sums to 1; ``count``: steps behind each group.
    """

    nodes: Floats
    gpus: Floats
    local_batch: Floats
    accumulation: Floats
    step_s: Floats
    grad_s: Floats
    weight: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.step_s)


def usable(observation: Observation) -> bool:
    """Whether an observation can enter a fit: finite, positive, and a shape that can exist."""
    o = observation
    return (
        0 < o.count < _INFINITE
        and 0 < o.step_sum_s < _INFINITE
        and 0 < o.local_batch < _INFINITE
        and 1 <= o.nodes <= o.gpus
        and o.accumulation >= 0
        and o.step_sum_s / o.count < _INFINITE
    )


def group(observations: Iterable[Observation], weights: str = "count") -> Groups:
    """Pool observations and turn sums into step times and weights.

    ``weights="count"``: weight is the inverse variance of the log of the mean step, never finer than the model's own
    error, and one slow step among many is taken out of the mean: with variance ``v`` of ``n`` steps a single outlier
    shifts the mean by exactly ``sqrt(v / (n - 1))``. ``weights="unweighted"``: plain means, each group counts once,
    as the public artifact does (ARTIFACT.md section 2). Unusable observations are left out.
    """
    sums: dict[tuple[int, int, float, int], list[float]] = {}
    for o in observations:
        if not usable(o):
            continue
        key = (o.nodes, o.gpus, o.local_batch, o.accumulation)
        square = o.step_square_sum_s2
        if not (math.isfinite(square) and square > 0):
            square = o.step_sum_s * (o.step_sum_s / o.count)
        sync = o.sync_sum_s if math.isfinite(o.sync_sum_s) and 0 < o.sync_sum_s < o.step_sum_s else 0.0
        total = sums.get(key)
        if total is None:
            sums[key] = [o.count, o.step_sum_s, square, sync]
        else:
            total[0] += o.count
            total[1] += o.step_sum_s
            total[2] += square
            total[3] += sync
    ordered = sorted(sums)
    keys = np.array(ordered, dtype=np.float64).reshape(-1, 4)
    table = np.array([sums[key] for key in ordered], dtype=np.float64).reshape(-1, 4)
    count, step_sum, square_sum, sync_sum = table.T
    nodes, gpus, local_batch, accumulation = keys.T
    mean = step_sum / count
    sync_share = sync_sum / step_sum
    if weights == "unweighted":
        step = _clipped(mean, TIME_RANGE_S)
        grad = _clipped(step * (1.0 - sync_share) / (accumulation + 1.0), TIME_RANGE_S)
        weight = np.full(len(step), 1.0 / max(len(step), 1))
    else:
        # relative to the mean, so that neither 1e-200 nor 1e200 overflows when squared
        spread2 = np.maximum(square_sum / step_sum / mean - 1.0, 0.0)
        spread2 = np.where(np.isfinite(spread2), spread2, 0.0)
        several = count >= 2
        slow = several & (spread2 > OUTLIER_SPREAD**2)
        shift = np.sqrt(spread2 / np.maximum(count - 1.0, 1.0))
        step = mean * np.where(slow, 1.0 - np.minimum(shift, 0.95), 1.0)
        alone = gpus <= 1
        sync = np.minimum(sync_share * mean, 0.95 * step)
        grad = np.where(alone, step, step - sync) / (accumulation + 1.0)
        grad = np.where(alone | (sync_sum > 0), grad, np.nan)
        step, grad = _clipped(step, TIME_RANGE_S), _clipped(grad, TIME_RANGE_S)
        variance = np.where(several, spread2, SINGLE_STEP_SPREAD**2) / count
        weight = 1.0 / (MODEL_ERROR**2 + np.minimum(variance, LARGEST_VARIANCE))
        weight = weight / max(float(weight.sum()), 1e-300)
    return Groups(nodes, gpus, _clipped(local_batch, BATCH_RANGE), accumulation, step, grad, weight, count)


def _clipped(values: Floats, within: tuple[float, float]) -> Floats:
    """`numpy.clip` at a fraction of its cost for short arrays; NaN stays NaN."""
    return np.minimum(np.maximum(values, within[0]), within[1])
