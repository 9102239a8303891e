"""Gradient noise along the work of a job: what it will be while a choice lasts, from its reports and its kind's.

The ratio r = variance / |gradient|^2 grows while a model trains (McCandlish et al. 2018, section 2.3), in the first
tenth of the work often tenfold, and is larger where the batch is (a mean over more samples hides less). A batch is held
until the job's next report, so what was reported last is too little. Jobs of one kind go through the same noise: their
reports, pooled in `history.NoiseCell`, say what comes. Pure functions and values; must never decide a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..history import LARGEST_NOISE, LEAST_NOISE, Gradient, JobHistory, NoiseCell, noise_cells
from .base import EfficiencyModel
from .efficiency import UNKNOWN, from_gradient

#: How far a cell speaks for its neighbours (one standard deviation): in cells of samples, in doublings of the batch.
NEAR_SAMPLES, NEAR_SCALE = 1.5, 1.5
#: A cell counts for at most so many reports: the difference between jobs does not average out.
MOST_PER_CELL = 4.0
#: Below so many reports nearby the kind has not been there.
LEAST_REPORTS = 0.5
#: Reports of others that weigh as much as the job's own word.
OWN_WEIGHT = 1.0
#: Share of a job's own distance from its kind that is expected to last.
OWN_OFFSET = 0.5
#: Growth until the next report but one where nobody has been ahead of the job: reports grow twice as far apart.
GROWTH = 2.0
#: Seconds of work ahead for which a batch is chosen: half of what a choice is taken to last.
AHEAD_S = 450.0
#: The middle of what comes, as a share of the work left: a bound for ``AHEAD_S``, and all there is before the start.
MIDDLE = 0.25


class NoiseMap:
    """What the reports of a kind say of log r by samples done and batch: a kernel mean over cells."""

    def __init__(self, cells: Iterable[NoiseCell]) -> None:
        sound = [c for c in cells if c.count > 0 and math.isfinite(c.log_sum)]
        self._samples = np.array([c.samples_cell + 0.5 for c in sound])
        self._scale = np.array([float(c.scale_doubling) for c in sound])
        self._mean = np.array([c.log_sum / c.count for c in sound])
        self._count = np.minimum(np.array([c.count for c in sound]), MOST_PER_CELL)

    def near(self, samples: float, scale: float | None = None) -> tuple[float, float] | None:
        """(log r, reports that say so) after ``samples``, at batch ``scale`` or at whatever was used there."""
        if not len(self._mean):
            return None
        weight = self._count * np.exp(-0.5 * ((self._samples - noise_cells(samples)) / NEAR_SAMPLES) ** 2)
        if scale is not None:
            weight = weight * np.exp(-0.5 * ((self._scale - math.log2(max(scale, 1.0))) / NEAR_SCALE) ** 2)
        total = float(weight.sum())
        return (float(np.dot(weight, self._mean)) / total, total) if total >= LEAST_REPORTS else None


def ahead(history: JobHistory, kind: NoiseMap, latest: Gradient | None, remaining: float | None) -> EfficiencyModel:
    """The moments to choose with: what the job last reported, and what its kind says of the time ahead.

    ``latest``: of any job of the kind, for a job that has reported none; ``remaining``: samples left, where known.
    """
    own = from_gradient(history.gradient)
    done = history.progress.samples if history.progress is not None else 0.0
    if own is UNKNOWN or not own.square > 0 or not done > 0:
        said = kind.near(MIDDLE * remaining) if own is UNKNOWN and remaining and math.isfinite(remaining) else None
        return from_gradient(latest) if said is None else _moments(said[0])
    assert history.gradient is not None
    scale = history.gradient.scale if math.isfinite(history.gradient.scale) else None
    mine = math.log(min(max(own.variance / own.square, LEAST_NOISE), LARGEST_NOISE))
    then = done + _soon(history, done, remaining)
    here, there = kind.near(done, scale), kind.near(then, scale)
    if there is None:
        return _moments(mine + math.log(GROWTH))
    offset = OWN_OFFSET * (mine - here[0]) if here is not None else 0.0
    share = there[1] / (there[1] + OWN_WEIGHT)
    return _moments(share * (there[0] + offset) + (1.0 - share) * (mine + math.log(GROWTH)))


def _soon(history: JobHistory, done: float, remaining: float | None) -> float:
    """Samples that the job does within `AHEAD_S` at the speed it has had so far, at most `MIDDLE` of what is left."""
    seconds = math.fsum(o.step_sum_s for o in history.observations if math.isfinite(o.step_sum_s) and o.step_sum_s > 0)
    soon = done * AHEAD_S / seconds if seconds > 0 else done
    bound = MIDDLE * remaining if remaining is not None and math.isfinite(remaining) and remaining > 0 else math.inf
    return min(soon, bound)


def _moments(log_ratio: float) -> EfficiencyModel:
    ratio = math.exp(log_ratio)
    return EfficiencyModel(1.0 / (1.0 + ratio), ratio / (1.0 + ratio))
