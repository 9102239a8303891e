"""Gradient noise along the work of a job: what it will be while a choice lasts, from its reports and its kind's.

The ratio r = variance / |gradient|^2 grows while a model trains (McCandlish et al. 2018, section 2.3), in the first
tenth of the work often tenfold, and is larger where the batch is (a mean over more samples hides less). A choice of
GPUs lasts and a batch is held until the job's next report, so what was reported last is too little. Jobs of one kind go
through the same noise: their reports, pooled in `history.NoiseCell`, say what comes. `ahead` says what to value
configurations with, `way` what the batch is to be chosen for. Pure functions and values; must never decide a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..history import (
    LARGEST_NOISE,
    LEAST_NOISE,
    NOISE_CELLS_PER_DOUBLING,
    Gradient,
    JobHistory,
    NoiseCell,
    noise_cells,
)
from .base import EfficiencyModel, NoiseAhead
from .efficiency import UNKNOWN, from_gradient

Floats = NDArray[np.float64]

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
#: Seconds of work ahead for which configurations are valued: half of what a choice is taken to last.
AHEAD_S = 450.0
#: Work that a job may have behind it before the batch told now counts: the points of a `way`, in multiples of the
#: samples done, and for a job that has not begun, of those at which others first reported.
STEPS = np.array([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
FIRST_STEPS = np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0])
#: Batch, in multiples of M0, of which the way of a job speaks that has not begun.
FIRST_SCALE = 2.0
#: How noise depends on the batch is read off between this many times smaller and larger ones; at most so much of log r
#: to a doubling.
APART = 4.0
MOST_BY_BATCH = 0.5
#: Where nobody has been before noise grows as the square root of the work, at most this many times.
ALONE_GROWTH = 2.0
#: Noise of a job of which nothing is known: as far as anybody has seen, training begins with little.
UNTOLD = 2.0
#: A batch is chosen for this point of the time for which it is held: what is done late in it counts for more work.
HELD_POINT = 0.85
#: Seconds of work until a job first reports; what it is told by then it obeys at the next report, after as long again.
FIRST_REPORT_S = 30.0
FIRST_HELD_S = HELD_POINT * 3.0 * FIRST_REPORT_S
#: Reports are no further apart than this, and no gap is taken to be more than twice the one before.
LONGEST_GAP_S = 600.0
GAP_GROWTH = 2.0
#: The middle of what comes, as a share of the work left: a bound for ``AHEAD_S``, and all there is before the start.
MIDDLE = 0.25

_LOG_RANGE = (math.log(LEAST_NOISE), math.log(LARGEST_NOISE))


class NoiseMap:
    """What the reports of a kind say of log r by samples done and batch: a kernel mean over cells."""

    def __init__(self, cells: Iterable[NoiseCell]) -> None:
        sound = [c for c in cells if c.count > 0 and math.isfinite(c.log_sum)]
        self._samples = np.array([c.samples_cell + 0.5 for c in sound])
        self._scale = np.array([float(c.scale_doubling) for c in sound])
        self._mean = np.array([min(max(c.log_sum / c.count, _LOG_RANGE[0]), _LOG_RANGE[1]) for c in sound])
        self._count = np.minimum(np.array([c.count for c in sound]), MOST_PER_CELL)

    def near(self, samples: float, scale: float | None = None) -> tuple[float, float] | None:
        """(log r, reports that say so) after ``samples``, at batch ``scale`` or at whatever was used there."""
        if not len(self._mean):
            return None
        weight = self._weights(noise_cells(samples), scale)
        total = float(weight.sum())
        return (float(np.dot(weight, self._mean)) / total, total) if total >= LEAST_REPORTS else None

    def along(self, samples: Floats, scale: float | None = None) -> tuple[Floats, Floats]:
        """`near` at many places at once: (log r, reports that say so); the latter 0 where there are too few."""
        weight = self._weights(np.array([[noise_cells(place)] for place in samples.tolist()]), scale)
        total = weight.sum(axis=1)
        enough = total >= LEAST_REPORTS
        mean = np.divide(weight @ self._mean, total, out=np.zeros_like(total), where=enough)
        return mean, np.where(enough, total, 0.0)

    def _weights(self, cell: float | Floats, scale: float | None) -> Floats:
        """What each cell of the kind counts for at ``cell``: [cells], or a row for each of several."""
        weight = self._count * np.exp(-0.5 * ((self._samples - cell) / NEAR_SAMPLES) ** 2)
        if scale is not None:
            weight = weight * np.exp(-0.5 * ((self._scale - math.log2(max(scale, 1.0))) / NEAR_SCALE) ** 2)
        return np.asarray(weight)

    @property
    def first_samples(self) -> float | None:
        """Work at which somebody of the kind first reported; ``None`` where nobody has."""
        return 2.0 ** (float(self._samples.min()) / NOISE_CELLS_PER_DOUBLING) if len(self._samples) else None


def ahead(history: JobHistory, kind: NoiseMap, latest: Gradient | None, remaining: float | None) -> EfficiencyModel:
    """The moments to value configurations with: what the job last reported, and what its kind says of the time ahead.

    ``latest``: of any job of the kind, for a job that has reported none; ``remaining``: samples left, where known.
    """
    own = from_gradient(history.gradient)
    done = history.progress.samples if history.progress is not None else 0.0
    if own is UNKNOWN or not own.square > 0 or not done > 0:
        said = kind.near(MIDDLE * remaining) if own is UNKNOWN and remaining and math.isfinite(remaining) else None
        return from_gradient(latest) if said is None else moments(said[0])
    assert history.gradient is not None
    scale = history.gradient.scale if math.isfinite(history.gradient.scale) else None
    mine = _log_ratio(own)
    then = done + _soon(history, done, remaining)
    here, there = kind.near(done, scale), kind.near(then, scale)
    if there is None:
        return moments(mine + math.log(GROWTH))
    offset = OWN_OFFSET * (mine - here[0]) if here is not None else 0.0
    share = there[1] / (there[1] + OWN_WEIGHT)
    return moments(share * (there[0] + offset) + (1.0 - share) * (mine + math.log(GROWTH)))


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a job reports: seconds of work at its last report, and the last two gaps between reports."""

    worked_s: float = 0.0
    gap_s: float = FIRST_REPORT_S
    gap_before_s: float = 0.0

    def after(self, history: JobHistory) -> Pace:
        """The pace with what ``history`` says now; the same while nothing was measured since."""
        worked_s = _worked_s(history)
        gap_s = worked_s - self.worked_s
        if not gap_s > 0:
            return self
        if self.worked_s <= 0:  # first seen: the gap is anybody's guess, but not longer than all that was worked
            return Pace(worked_s, min(gap_s, FIRST_REPORT_S))
        return Pace(worked_s, min(gap_s, LONGEST_GAP_S), self.gap_s)

    @property
    def held_s(self) -> float:
        """Seconds of work from the last report into the gap after the next one, as far as `HELD_POINT`.

        A job obeys at its next report and holds that batch until the one after.
        """
        growth = GAP_GROWTH if self.gap_before_s <= 0 else min(max(self.gap_s / self.gap_before_s, 1.0), GAP_GROWTH)
        coming_s = min(self.gap_s * growth, LONGEST_GAP_S)
        return coming_s + HELD_POINT * min(coming_s * growth, LONGEST_GAP_S)


def way(
    history: JobHistory, kind: NoiseMap, latest: Gradient | None, remaining: float | None, pace: Pace
) -> NoiseAhead:
    """The noise from where the job is to well beyond its next reports; arguments as for `ahead`."""
    own = from_gradient(history.gradient)
    done = history.progress.samples if history.progress is not None else 0.0
    if own is UNKNOWN or not own.square > 0 or not done > 0:
        return _first_way(kind, latest, max(done, 0.0))
    assert history.gradient is not None
    scale = max(history.gradient.scale, 1.0) if math.isfinite(history.gradient.scale) else 1.0
    mine = _log_ratio(own)
    left = remaining if remaining is not None and math.isfinite(remaining) and remaining > 0 else math.inf
    coming = np.minimum(done * STEPS, 0.5 * left)
    said, reports = kind.along(done + coming, scale)
    offset = OWN_OFFSET * (mine - float(said[0])) if reports[0] > 0 else 0.0
    share = reports / (reports + OWN_WEIGHT)
    alone = mine + np.minimum(0.5 * np.log1p(coming / done), math.log(ALONE_GROWTH))
    path = share * (said + offset) + (1.0 - share) * alone
    return NoiseAhead(_points(coming, path, _by_batch(kind, done + coming, scale)), scale, pace.held_s)


def _first_way(kind: NoiseMap, latest: Gradient | None, done: float) -> NoiseAhead:
    """The way of a job that has not said anything of its noise: its kind's, from its first reports on."""
    first = kind.first_samples
    if first is not None:
        coming = first * FIRST_STEPS
        at = np.maximum(done + coming, first)
        said, reports = kind.along(at, FIRST_SCALE)
        known = reports > 0
        if known.any():
            way = _points(coming[known], said[known], _by_batch(kind, at, FIRST_SCALE)[known])
            return NoiseAhead(way, FIRST_SCALE, FIRST_HELD_S)
    told = from_gradient(latest)
    ratio = math.log(UNTOLD) if told is UNKNOWN or not told.square > 0 else _log_ratio(told)
    return NoiseAhead(((0.0, ratio, 0.0),), 1.0, FIRST_HELD_S)


def _by_batch(kind: NoiseMap, samples: Floats, scale: float) -> Floats:
    """What a doubling of the batch adds to log r at each place; 0 where nobody has tried several."""
    low, high = max(scale / APART, 1.0), scale * APART
    (small, few), (large, many) = kind.along(samples, low), kind.along(samples, high)
    slope = (large - small) / math.log2(high / low)
    return np.where((few > 0) & (many > 0), np.clip(slope, 0.0, MOST_BY_BATCH), 0.0)


def _points(*columns: Floats) -> tuple[tuple[float, float, float], ...]:
    coming, path, slope = (column.tolist() for column in columns)
    return tuple(zip(coming, path, slope, strict=True))


def _soon(history: JobHistory, done: float, remaining: float | None) -> float:
    """Samples that the job does within `AHEAD_S` at the speed it has had so far, at most `MIDDLE` of what is left."""
    seconds = _worked_s(history)
    soon = done * AHEAD_S / seconds if seconds > 0 else done
    bound = MIDDLE * remaining if remaining is not None and math.isfinite(remaining) and remaining > 0 else math.inf
    return min(soon, bound)


def _worked_s(history: JobHistory) -> float:
    """Seconds of steps that were measured, over all runs."""
    return math.fsum(o.step_sum_s for o in history.observations if math.isfinite(o.step_sum_s) and o.step_sum_s > 0)


def _log_ratio(own: EfficiencyModel) -> float:
    """Log of variance over |gradient|^2, which must not be 0, within what is no estimator's accident."""
    return math.log(min(max(own.variance / own.square, LEAST_NOISE), LARGEST_NOISE))


def moments(log_ratio: float) -> EfficiencyModel:
    """The moments, scaled to sum to 1, whose variance over |gradient|^2 has this logarithm."""
    ratio = math.exp(log_ratio)
    return EfficiencyModel(1.0 / (1.0 + ratio), ratio / (1.0 + ratio))
