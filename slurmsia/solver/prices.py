"""Dual prices of the capacity rows and the bound they prove, vectorised over jobs x configurations.

Relaxing the rows with prices u >= 0 gives  f(u) = u.limit + sum_i max(0, max_c value[i,c] - u.need[c]),  an upper
bound on every feasible choice whatever u is (Sia, section 3). Here f is smoothed by a softmax of falling
temperature and minimised by Newton steps with a barrier that keeps u positive; the best u is then rounded to whole
numbers and f is evaluated exactly. Nothing here depends on how good u is for being correct.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .scaled import ScaledProgram, SideNeeds

#: First temperature from nothing and from a sample's prices, and the last, relative to the mean best value of a job.
_HOT, _WARM, _COLD = 0.3, 3e-3, 2e-5
_COOLING = 0.3
#: The same where sweeps look at whatever is left open: so many jobs at most, for which coarse prices do.
SMALL_JOBS = 64
_SMALL_HOT, _SMALL_COLD, _SMALL_COOLING = 0.05, 1e-3, 0.1
#: Significant bits of a price: enough for a bound within 1e-6, few enough to be the same on every machine.
_PRICE_BITS = 24
#: Programs with more jobs than this start from prices found on an evenly spaced sample of their jobs.
_SAMPLE_JOBS = 3000
#: Shares below exp of this count as none.
_NOTHING = -40.0
#: Products of at most this many multiplications are not worth a second thread to any BLAS: waking one costs more.
_BLAS_ALONE = 200_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Whole-number prices and what they prove.

    ``prices`` int64 [rows + side rows] in scaled value per unit of need; ``reduced`` int64 [jobs, C]: value minus
    price (very negative where not valid); ``best`` int64 [jobs]: max(0, row maximum); ``bound`` int: no choice of
    the free jobs is worth more; ``heat``: temperature at which shares of jobs, drawn by softmax, use the capacity.
    """

    prices: NDArray[np.int64]
    reduced: NDArray[np.int64]
    best: NDArray[np.int64]
    bound: int
    heat: float = 0.0


#: Reduced value of an entry that does not exist.
NEVER = -(2**60)


def price(program: ScaledProgram) -> Prices:
    """Near-optimal prices of all rows with the exact bound they prove."""
    rows = len(program.limit) + len(program.side)
    if rows == 0 or not len(program.jobs):
        return evaluate(program, np.zeros(rows, dtype=np.int64))
    start = None
    if len(program.jobs) > 2 * _SAMPLE_JOBS and not program.side:
        sample = _Smooth(program, len(program.jobs) // _SAMPLE_JOBS)
        start, _ = _descend(sample, None, _HOT, _COOLING)
    smooth = _Smooth(program, 1)
    if len(program.jobs) <= SMALL_JOBS:
        found, heat = _descend(smooth, None, _SMALL_HOT, _SMALL_COOLING, _SMALL_COLD)
    elif start is None:
        found, heat = _descend(smooth, None, _HOT, _COOLING)
    else:
        found, heat = _descend(smooth, start, _WARM, _COOLING**2)
    whole = _whole(found * smooth.unit_value / smooth.unit_need)
    return replace(evaluate(program, whole), heat=heat * smooth.unit_value)


def _whole(prices: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole-number prices, cut to `_PRICE_BITS` so that the last bits of a BLAS or libm kernel do not show."""
    mantissa, exponent = np.frexp(np.maximum(prices, 0.0))
    cut = np.ldexp(np.rint(np.ldexp(mantissa, _PRICE_BITS)), exponent - _PRICE_BITS)
    return np.asarray(np.rint(cut), dtype=np.int64)


def evaluate(program: ScaledProgram, prices: NDArray[np.int64]) -> Prices:
    """The exact bound at given whole-number prices."""
    own = len(program.limit)
    reduced = program.value - (prices[:own] @ program.need)[None, :]
    for row, side_price in zip(program.side, prices[own:], strict=True):
        reduced.reshape(-1)[row.flat] -= row.need * side_price
    reduced[~program.valid] = NEVER
    best = np.maximum(reduced.max(axis=1, initial=NEVER), 0)
    limits = np.concatenate([program.limit, program.side_limits()])
    return Prices(prices, reduced, best, int(best.sum()) + int(prices @ limits))


class _Smooth:
    """The smoothed dual of every ``stride``-th job, in units where values and limits are about 1.

    Equal jobs are one row with a count, and configurations that nobody may take are left out: neither changes it.
    """

    def __init__(self, program: ScaledProgram, stride: int) -> None:
        value, valid = program.value[::stride], program.valid[::stride]
        jobs = len(value)
        tops = np.where(valid, value, 0).max(axis=1)
        self.unit_value = max(float(tops.mean()), 1.0)
        columns = np.flatnonzero(valid.any(axis=0))
        value, valid = value[:, columns], valid[:, columns]
        first, self.count = (np.arange(jobs), np.ones(jobs)) if program.side else _classes(value, valid)
        self.value = np.where(valid[first], value[first] / self.unit_value, -np.inf)
        share = jobs / len(program.value)
        limits = np.concatenate([program.limit, program.side_limits()]).astype(np.float64) * share
        self.unit_need = np.maximum(limits / max(jobs, 1), 1e-9)
        self.limit = limits / self.unit_need
        self.own = len(program.limit)
        self.need = np.ascontiguousarray(program.need[:, columns] / self.unit_need[: self.own, None])
        self.side = [
            _side_at(row, unit, program.value.shape[1], columns)
            for row, unit in zip(program.side, self.unit_need[self.own :], strict=True)
        ]
        self.crossing = [
            (k, other, here, there)
            for k, (flat, _) in enumerate(self.side)
            for other, (flat_other, _) in enumerate(self.side[:k])
            for _, here, there in [np.intersect1d(flat, flat_other, assume_unique=True, return_indices=True)]
            if len(here)
        ]
        self.block = max(16, _BLAS_ALONE // max(1, len(limits) * max(len(columns), len(limits))))
        self.simple = not program.side and len(self.value) <= self.block
        self.root_count = np.sqrt(self.count)

    def reduced(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        red = self.value - prices[: self.own] @ self.need
        for (flat, need), side_price in zip(self.side, prices[self.own :], strict=True):
            red.reshape(-1)[flat] -= need * side_price
        return red

    def at(
        self, prices: NDArray[np.float64], heat: float
    ) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64]]:
        """Exact dual, smoothed dual with barrier, its gradient and its Hessian."""
        if self.simple:
            return self._at_simply(prices, heat)
        red = self.reduced(prices)
        top = np.maximum(red.max(axis=1, initial=-np.inf), 0.0)
        share = (red - top[:, None]) / heat
        # Numbers too small to be normal make products slow a hundredfold and add nothing.
        share = np.where(share > _NOTHING, np.exp(share), 0.0)
        queued = -top / heat
        total = share.sum(axis=1) + np.where(queued > _NOTHING, np.exp(queued), 0.0)
        share /= total[:, None]
        exact = float(self.count @ top + prices @ self.limit)
        smooth = exact + heat * float(self.count @ np.log(total)) - heat * float(np.log(prices).sum())
        columns = self.count @ share
        load = np.concatenate([self.need @ columns, np.zeros(len(self.side))])
        square = np.zeros((len(prices), len(prices)))
        square[: self.own, : self.own] = (self.need * columns) @ self.need.T
        mean = np.empty((len(prices), len(share)))
        for start in range(0, len(share), self.block):
            mean[: self.own, start : start + self.block] = self.need @ share[start : start + self.block].T
        weights = []
        for k, (flat, need) in enumerate(self.side, start=self.own):
            weight = share.reshape(-1)[flat] * need
            weights.append(weight)
            load[k] = weight.sum()
            mean[k] = np.bincount(flat // share.shape[1], weight, minlength=len(share))
            square[k, k] = (weight * need).sum()
            square[k, : self.own] = square[: self.own, k] = self.need[:, flat % share.shape[1]] @ weight
        for k, other, here, there in self.crossing:
            both = float((weights[k][here] * self.side[other][1][there]).sum())
            square[self.own + k, self.own + other] = square[self.own + other, self.own + k] = both
        gradient = self.limit - load - heat / prices
        mean *= self.root_count
        for start in range(0, len(share), self.block):
            part = mean[:, start : start + self.block]
            square -= part @ part.T
        hessian = square / heat + np.diag(heat / prices**2)
        return exact, smooth, gradient, hessian

    def _at_simply(
        self, prices: NDArray[np.float64], heat: float
    ) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64]]:
        """The same numbers without side rows and blocks, in few array operations: small programs come every round."""
        share = self.value - prices @ self.need
        top = np.maximum.reduce(share, axis=1, initial=0.0)
        share -= top[:, None]
        share /= heat
        share = np.where(share > _NOTHING, np.exp(share), 0.0)
        queued = top / -heat
        total = np.add.reduce(share, axis=1)
        total += np.where(queued > _NOTHING, np.exp(queued), 0.0)
        share /= total[:, None]
        exact = float(self.count @ top + prices @ self.limit)
        level = exact + heat * float(self.count @ np.log(total)) - heat * float(np.add.reduce(np.log(prices)))
        columns = self.count @ share
        gradient = self.limit - self.need @ columns - heat / prices
        mean = self.need @ share.T
        mean *= self.root_count
        hessian = (self.need * columns) @ self.need.T
        hessian -= mean @ mean.T
        hessian /= heat
        hessian.reshape(-1)[:: len(prices) + 1] += heat / prices**2
        return exact, level, gradient, hessian


def _classes(value: NDArray[np.int64], valid: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First job and number of jobs of each set of equal rows; two rows that only look equal cost precision at most."""
    marks = np.where(valid, value + 1, 0) @ _class_weights(value.shape[1])
    _, first, count = np.unique(marks, return_index=True, return_counts=True)
    order = np.argsort(first)
    return first[order], count[order].astype(np.float64)


@lru_cache(maxsize=64)
def _class_weights(columns: int) -> NDArray[np.int64]:
    """Odd random numbers; not to be changed."""
    return np.random.default_rng(0).integers(1, 2**62, columns) | 1


def _side_at(
    row: SideNeeds, unit: float, width: int, columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A side row on the columns that are left: flat indices and scaled needs."""
    place = np.full(width, -1, dtype=np.int64)
    place[columns] = np.arange(len(columns))
    column = place[row.flat % width]
    kept = column >= 0
    return (row.flat // width * len(columns) + column)[kept], row.need[kept] / unit


def _descend(
    smooth: _Smooth, start: NDArray[np.float64] | None, hot: float, cooling: float, cold: float = _COLD
) -> tuple[NDArray[np.float64], float]:
    """Prices with a small exact dual, and their temperature: Newton steps while the temperature falls."""
    rows = len(smooth.limit)
    prices = np.full(rows, 0.5 / rows) if start is None else np.maximum(start, 1e-9)
    best_prices, best, best_heat = prices, np.inf, hot
    heat = hot
    stale = 0
    while heat > cold and stale < 4:
        before = best
        exact, level, gradient, hessian = smooth.at(prices, heat)
        for _ in range(6):
            if exact < best:
                best, best_prices, best_heat = exact, prices, heat
            step = _newton_step(gradient, hessian)
            decrement = -float(gradient @ step)
            if not math.isfinite(decrement) or decrement < 1e-2 * heat:
                break
            zero_at = [at / -slope for at, slope in zip(prices.tolist(), step.tolist(), strict=True) if slope < 0]
            length = min(1.0, 0.9 * min(zero_at, default=math.inf))
            for _ in range(8):
                trial = prices + length * step
                found = smooth.at(trial, heat)
                if found[1] <= level - 0.1 * length * decrement:
                    break
                length *= 0.4
            else:
                break
            prices = trial
            exact, level, gradient, hessian = found
        if exact < best:
            best, best_prices, best_heat = exact, prices, heat
        stale = stale + 1 if best > before - 1e-9 * abs(best) else 0
        heat *= cooling
    return best_prices, best_heat


def _newton_step(gradient: NDArray[np.float64], hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    ridged = hessian.copy()
    ridged.reshape(-1)[:: len(gradient) + 1] += 1e-12 * float(hessian.trace()) + 1e-300
    try:
        return np.asarray(-np.linalg.solve(ridged, gradient))
    except np.linalg.LinAlgError:
        return np.asarray(-gradient / np.maximum(np.diag(hessian), 1e-12))
