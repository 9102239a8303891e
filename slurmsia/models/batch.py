"""Best batch of many (job, configuration) pairs at once: columns of numbers in, columns of numbers out.

The arithmetic behind `goodput.GoodputTable`, kept apart from values and caching. All arrays have one length and
share no rows; must never see a `JobModel`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .bias_columns import BiasColumns

Floats = NDArray[np.float64]
Index = NDArray[np.intp]


class Columns:
    """One entry per (job, configuration): model parameters in seconds, limits in samples, moments at M0.

    ``table`` [12, entries] has the rows ``alpha``, ``beta``, ``sync``: all-reduce seconds at this shape, ``gamma``,
    ``speed``, ``replicas``: data-parallel ones, ``first``/``last``: M0 and largest total batch, ``low``/``high``:
    micro-batch limits, ``square``/``variance``: gradient moments. One array, so that entries are taken at once.
    """

    def __init__(self, table: Floats) -> None:
        self.table = table
        self.alpha, self.beta, self.sync, self.gamma, self.speed, self.replicas = table[:6]
        self.first, self.last, self.low, self.high, self.square, self.variance = table[6:]

    def take(self, index: Index) -> Columns:
        """The entries at ``index``."""
        return Columns(self.table.take(index, axis=1))


#: Measured micro-batches compete with the smooth optimum when they are within this factor of it.
NEAR_MEASURED = 2.0
#: Goodputs are rounded to this many binary digits (about 1e-9), so that the last bits of a BLAS or libm kernel can
#: never flip a decision between machines.
GOODPUT_BITS = 30
#: Rounding up a number below this overflows nothing.
_LARGEST = 1e300


def quantise(values: Floats) -> Floats:
    """Round to `GOODPUT_BITS` significant bits; keeps zeros and order (ties may form)."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(mantissa * (1 << GOODPUT_BITS)) / (1 << GOODPUT_BITS), exponent))


def quantised(value: float) -> float:
    """`quantise` of one number."""
    if not abs(value) < _LARGEST:
        return float(quantise(np.float64(value)))
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * (1 << GOODPUT_BITS)) / (1 << GOODPUT_BITS), exponent)


def speeds(c: Columns, m: Floats, u: Floats) -> tuple[Floats, Floats]:
    """(throughput, goodput) in samples/s at micro-batch ``m`` and ``u = accumulation + 1`` micro-batches."""
    compute = c.alpha + c.beta * m
    ratio = np.minimum(c.sync / compute, 1e30)
    step = compute * (u - 1.0) + compute * (1.0 + ratio**c.gamma) ** (1.0 / c.gamma)
    total = c.replicas * m * u
    rate = total * c.speed / step
    scale = np.maximum(total / c.first, 1.0)
    # gain / scale = (variance + square) / (variance + square * scale)
    return rate, rate * ((c.variance + c.square) / (c.variance + c.square * scale))


class Chosen:
    """The best option of each entry so far; ties keep the earlier one. Zeros where there is none."""

    def __init__(self, n: int) -> None:
        self.rate, self.goodput = np.zeros(n), np.zeros(n)
        self.m, self.u = np.zeros(n), np.zeros(n)

    def put(self, index: Index, rate: Floats, goodput: Floats, m: Floats, u: Floats) -> None:
        """Replace the options of some entries."""
        self.rate[index], self.goodput[index] = rate, goodput
        self.m[index], self.u[index] = m, u

    def take(self, index: Index) -> tuple[Floats, Floats, Floats, Floats]:
        """(rate, goodput, m, u) of some entries."""
        return self.rate[index], self.goodput[index], self.m[index], self.u[index]

    def offer(self, index: Index, rate: Floats, goodput: Floats, m: Floats, u: Floats) -> None:
        """Offer one option to each of some entries."""
        # a last-bit difference is no difference: keep the smaller batch, which is offered first
        better = (goodput > self.goodput[index] * (1.0 + 1e-12)).nonzero()[0]
        if len(better):
            self.put(index[better], rate[better], goodput[better], m[better], u[better])


class _Best(Chosen):
    """Options of columns, valued by `speeds`."""

    def __init__(self, c: Columns) -> None:
        super().__init__(len(c.alpha))
        self.columns = c

    def try_out(self, m: Floats, u: Floats, index: Index, taken: Columns | None = None) -> None:
        """Value (m, u) for the entries at ``index`` and offer it; ``taken``: their columns, where known already."""
        self.offer(index, *speeds(self.columns.take(index) if taken is None else taken, m, u), m, u)

    def try_each(self, options: Sequence[tuple[Floats, Floats, Index]]) -> None:
        """`try_out` of several (m, u, entries) in turn, valued together."""
        m, u = np.concatenate([option[0] for option in options]), np.concatenate([option[1] for option in options])
        rate, goodput = speeds(self.columns.take(np.concatenate([option[2] for option in options])), m, u)
        start = 0
        for option in options:
            part = slice(start, start + len(option[2]))
            start = part.stop
            self.offer(option[2], rate[part], goodput[part], m[part], u[part])


def ceil_div(a: Floats, b: Floats) -> Floats:
    """Ceiling of a quotient of whole numbers held in doubles (exact below 2^50)."""
    return np.ceil(a / b - 1e-9)


def fixed_batch(c: Columns) -> tuple[Floats, Floats, Floats, Floats]:
    """(rate, goodput, m, u) when the total batch must stay at ``first``: the fewest micro-batches that fit."""
    per_replica = c.first / c.replicas
    u = np.maximum(ceil_div(per_replica, c.high), 1.0)
    m = ceil_div(per_replica, u)
    rate, goodput = speeds(c, m, u)
    legal = (per_replica >= c.low - 1e-9) & (m <= c.high)
    return tuple(np.where(legal, column, 0.0) for column in (rate, goodput, m, u))  # type: ignore[return-value]


def best_batch_columns(c: Columns) -> tuple[Floats, Floats, Floats, Floats]:
    """(rate, goodput, m, u) of the best batch within limits; zeros where no batch is legal.

    Candidates: the smallest total batch; u = 1 at the root of d log goodput / d log m and its neighbour (one GPU
    above M0 accumulates at least once, for otherwise its gradient noise could not be measured); u > 1 at the largest
    micro-batch around the closed-form optimum; and the largest total batch.
    """
    best = _Best(c)
    legal = (c.low <= c.high) & (c.replicas * c.low <= c.last)
    per_replica = c.first / c.replicas
    u0 = np.maximum(ceil_div(per_replica, c.high), 1.0)
    m0 = np.maximum(ceil_div(per_replica, u0), c.low)
    # whole samples per GPU may round the smallest batch up; the least micro-batch may not push it beyond the limit
    legal &= c.replicas * m0 * u0 <= np.maximum(c.last, c.first + c.replicas * u0)
    everywhere = legal.nonzero()[0]
    best.try_out(m0[everywhere], u0[everywhere], everywhere, c if legal.all() else None)
    top = np.minimum(c.high, np.floor(c.last / c.replicas + 1e-9))
    alone = c.replicas <= 1.0
    grow = (legal & (u0 <= 1.0) & ~alone & (top > m0)).nonzero()[0]
    if len(grow):
        _offer_growing(best, grow, m0[grow], top[grow])
    pair = (legal & (u0 <= 1.0) & alone & (c.last > c.first) & (2.0 * c.low <= c.last)).nonzero()[0]
    if len(pair):
        _offer_pairs(best, pair)
    more = (legal & (c.last > c.replicas * c.high * np.maximum(u0, 1.0))).nonzero()[0]
    if len(more):
        _offer_accumulating(best, more, u0[more])
    return best.rate, best.goodput, best.m, best.u


def _offer_growing(best: _Best, index: Index, low: Floats, high: Floats) -> None:
    """u = 1, several replicas: the largest whole m with rising goodput, and the next."""
    c = best.columns.take(index)
    noise = c.variance * c.first
    signal = c.square * c.replicas

    def rising(c: Columns, noise: Floats, signal: Floats, m: Floats) -> NDArray[np.bool_]:
        compute = c.alpha + c.beta * m
        share = c.beta * m / (compute * (1.0 + np.minimum(c.sync / compute, 1e30) ** c.gamma))
        return np.asarray(noise > share * (noise + signal * m))

    at_top = rising(c, noise, signal, high)
    low, high = low.copy(), high.copy()
    low[at_top] = high[at_top]
    inner = (~at_top).nonzero()[0]
    if len(inner):
        part = c.take(inner)
        noise, signal = noise[inner], signal[inner]
        # invariant: not rising at `above`; rising (or the lowest legal) at `below`
        below, above = low[inner], high[inner]
        for _ in range(int(np.ceil(np.log2(max(float((above - below).max()), 2.0)))) + 1):
            middle = np.floor(0.5 * (below + above))
            up = rising(part, noise, signal, middle)
            below = np.where(up, middle, below)
            above = np.where(up, above, middle)
        low[inner], high[inner] = below, np.maximum(above, below)
    best.try_out(low, np.ones(len(low)), index, c)
    second = (high > low).nonzero()[0]
    if len(second):
        best.try_out(high[second], np.ones(len(second)), index[second])


def _offer_pairs(best: _Best, index: Index) -> None:
    """One replica above M0: two micro-batches, where T is exactly 2 (alpha + beta m) and the root is closed."""
    c = best.columns.take(index)
    low = np.maximum(ceil_div(c.first, np.full(len(index), 2.0)), c.low)
    high = np.minimum(c.high, np.floor(c.last / 2.0 + 1e-9))
    bottom = 2.0 * c.beta * c.square
    root = np.sqrt(c.variance * c.first * c.alpha / np.where(bottom > 0, bottom, 1.0))
    root = np.where(bottom > 0, root, np.inf)
    keep = (low <= high).nonzero()[0]
    root, at = np.minimum(np.maximum(root, low), high)[keep], index[keep]
    two = np.full(len(keep), 2.0)
    best.try_each([(np.floor(root), two, at), (np.ceil(root), two, at)])


def _offer_accumulating(best: _Best, index: Index, u0: Floats) -> None:
    """u > 1: d log goodput / du = 0 has a closed root at m = high; also the largest total batch."""
    c = best.columns.take(index)
    compute = c.alpha + c.beta * c.high
    full = compute * (1.0 + np.minimum(c.sync / compute, 1e30) ** c.gamma) ** (1.0 / c.gamma)
    bottom = compute * c.square * c.replicas * c.high
    root = np.sqrt(c.variance * c.first * np.maximum(full - compute, 0.0) / np.where(bottom > 0, bottom, 1.0))
    most = c.last / (c.replicas * c.high)
    root = np.where(bottom > 0, root, np.where(full > compute, np.inf, 0.0))
    least = np.maximum(u0, 2.0)
    root = np.minimum(np.maximum(root, least), np.maximum(most, least))
    options = []
    for u in (np.floor(root), np.ceil(root)):
        keep = (u <= most + 1e-9).nonzero()[0]
        options.append((c.high[keep], u[keep], index[keep]))
    largest = np.floor(c.last / c.replicas + 1e-9)
    for target in (np.minimum(root * c.high, largest), largest):
        u = np.maximum(ceil_div(target, c.high), 2.0)
        m = np.floor(target / u + 1e-9)
        keep = ((m >= c.low) & (c.replicas * m * u >= c.first)).nonzero()[0]
        options.append((m[keep], u[keep], index[keep]))
    best.try_each(options)


def near_measured(
    c: Columns,
    smooth: tuple[Floats, Floats, Floats, Floats],
    adaptive: NDArray[np.bool_],
    bias: BiasColumns,
    row: Index,
    column: Index,
) -> tuple[Floats, Floats, Floats, Floats]:
    """(rate, goodput, m, u) with measured deviations: the smooth optimum against every measured micro-batch.

    Only measured micro-batches can be known to be better than the smooth model says, so only they are looked at, and
    of them only those within a factor `NEAR_MEASURED` of the smooth optimum.
    """
    rate, goodput, m, u = smooth
    factor = np.exp(-bias.log_factor(row, column, m))
    best = Chosen(len(m))
    best.put(np.arange(len(m)), rate * factor, goodput * factor, m, u)
    other = bias.batches[row]
    near = (other >= m[:, None] / NEAR_MEASURED) & (other <= m[:, None] * NEAR_MEASURED)
    near &= adaptive[:, None] & (other >= c.low[:, None]) & (other <= c.high[:, None]) & (other == np.floor(other))
    steps = np.where((c.replicas[:, None] <= 1.0) & (other > c.first[:, None]), 2.0, 1.0)
    total = c.replicas[:, None] * other * steps
    near &= (total >= c.first[:, None]) & (total <= c.last[:, None])
    index, place = np.nonzero(near)
    if len(index):
        local, u = other[index, place], steps[index, place]
        rate, goodput = speeds(c.take(index), local, u)
        factor = np.exp(-bias.at_measured[row[index], place, column[index]])
        # options of one entry lie together, ascending: the first of the best is taken, as when offered in turn
        order = np.lexsort((place, -quantise(goodput * factor), index))
        first = order[np.diff(index[order], prepend=-1).nonzero()[0]]
        best.offer(index[first], rate[first] * factor[first], goodput[first] * factor[first], local[first], u[first])
    return best.take(np.arange(len(m)))
