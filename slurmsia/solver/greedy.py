"""A feasible choice from prices: every job takes its best configuration, the overdraft is repaired, slack is filled.

Works on whole numbers and breaks ties by position, so it is deterministic. It always ends feasible: leaving jobs
queued frees everything that the free jobs use.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .prices import Prices
from .scaled import ScaledProgram

#: Repair and filling look at this many changes per step at most; the cheapest ones by reduced cost.
_LOOKED_AT = 4096
#: Steps of repair and of filling before the remaining overdraft is cut by queueing jobs.
_STEPS = 1000
#: Noise of at most this size is drawn once and kept.
_FEW_ROWS, _FEW_COLUMNS = 128, 256


def greedy(program: ScaledProgram, priced: Prices) -> NDArray[np.int64]:
    """Choice int64 [free jobs] that keeps every row: priced choice, repaired, then filled."""
    if not len(program.jobs):
        return np.zeros(0, dtype=np.int64)
    changes = Changes(program, priced)
    return changes.filled(changes.repaired(drawn(priced)))


def drawn(priced: Prices, seed: int = 0) -> NDArray[np.int64]:
    """Every job's best configuration at the prices, where near ties are drawn so that all together about fit.

    Many equal jobs have equal best configurations; adding Gumbel noise of the prices' own temperature draws each from
    its softmax, whose expected use of capacity is what the prices balance. The noise depends on ``seed`` alone.
    """
    reduced = np.concatenate([priced.reduced, np.zeros((len(priced.reduced), 1), dtype=np.int64)], axis=1)
    noise = _noise(seed, *reduced.shape) * priced.heat
    drawn = (reduced + np.rint(noise).astype(np.int64)).argmax(axis=1)
    return np.where(drawn == priced.reduced.shape[1], -1, drawn).astype(np.int64)


def _noise(seed: int, rows: int, columns: int) -> NDArray[np.float64]:
    """Gumbel noise [rows, columns] of a seed, row after row."""
    if rows <= _FEW_ROWS and columns <= _FEW_COLUMNS:
        return _little_noise(seed, columns)[:rows]
    return np.random.default_rng(seed).gumbel(size=(rows, columns))


@lru_cache(maxsize=32)
def _little_noise(seed: int, columns: int) -> NDArray[np.float64]:
    """The first rows of what `_noise` draws; not to be changed."""
    return np.random.default_rng(seed).gumbel(size=(_FEW_ROWS, columns))


class Changes:
    """Single-job changes of a choice, restricted to the cheapest by reduced cost."""

    def __init__(self, program: ScaledProgram, priced: Prices) -> None:
        self.program = program
        loss = np.where(program.valid, priced.best[:, None] - priced.reduced, 2**60)
        with_queue = np.concatenate([priced.best[:, None], loss], axis=1)
        flat = with_queue.reshape(-1)
        count = min(_LOOKED_AT, int((flat < 2**60).sum()))
        order = np.argpartition(flat, count - 1)[:count] if count < len(flat) else np.arange(len(flat))
        order = np.sort(order[flat[order] < 2**60])
        width = with_queue.shape[1]
        self.job = order // width
        self.config = order % width - 1
        self.loss = flat[order]
        self.all_loss = with_queue
        self.need = needs_of(program, self.job, self.config)
        self.value = values_of(program, self.job, self.config)
        self.limits = np.concatenate([program.limit, program.side_limits()])

    def repaired(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take the change with the least loss per unit of overdraft removed until nothing is overdrawn."""
        choice = choice.copy()
        used = self.used(choice)
        weight = 1.0 / np.maximum(self.limits, 1)
        for _ in range(_STEPS):
            over = np.maximum(used - self.limits, 0)
            if not over.any():
                return choice
            now = choice[self.job]
            delta = self.need - needs_of(self.program, self.job, now)
            relief = (
                weight[:, None] * (over[:, None] - np.maximum(used[:, None] + delta - self.limits[:, None], 0))
            ).sum(axis=0)
            cost = self.loss - self.all_loss[self.job, now + 1]
            ratio = np.where(relief > 1e-12, np.maximum(cost, 0) / np.maximum(relief, 1e-12), np.inf)
            pick = int(ratio.argmin())
            if not np.isfinite(ratio[pick]):
                break
            choice[self.job[pick]] = self.config[pick]
            used = used + delta[:, pick]
        return self._cut(choice)

    def filled(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take the change that adds the most value and fits, until none does."""
        choice = choice.copy()
        used = self.used(choice)
        for _ in range(_STEPS):
            now = choice[self.job]
            delta = self.need - needs_of(self.program, self.job, now)
            gain = self.value - values_of(self.program, self.job, now)
            fits = (used[:, None] + delta <= self.limits[:, None]).all(axis=0)
            gain = np.where(fits, gain, 0)
            pick = int(gain.argmax()) if len(gain) else 0
            if not len(gain) or gain[pick] <= 0:
                break
            choice[self.job[pick]] = self.config[pick]
            used = used + delta[:, pick]
        return choice

    def used(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([self.program.used(choice), self.program.used_side(choice)])

    def _cut(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """Queue jobs, least value first, until every row holds."""
        used = self.used(choice)
        holders = np.nonzero(choice >= 0)[0]
        order = holders[np.argsort(self.program.value[holders, choice[holders]], kind="stable")]
        needs = needs_of(self.program, order, choice[order])
        for job, need in zip(order, needs.T, strict=True):
            over = used > self.limits
            if not over.any():
                break
            if (need[over] > 0).any():
                choice[job] = -1
                used = used - need
        return choice


def needs_of(program: ScaledProgram, job: NDArray[np.int64], config: NDArray[np.int64]) -> NDArray[np.int64]:
    """Needs int64 [rows + side rows, n] of n (job, configuration) pairs; configuration -1 needs nothing."""
    own = np.where(config >= 0, program.need[:, np.maximum(config, 0)], 0)
    if not program.side:
        return np.asarray(own, dtype=np.int64)
    columns = program.value.shape[1]
    flat = np.where(config >= 0, job * columns + config, -1)
    parts = [own]
    for row in program.side:
        at = np.minimum(np.searchsorted(row.flat, flat), len(row.flat) - 1)
        parts.append(np.where(row.flat[at] == flat, row.need[at], 0)[None, :])
    return np.concatenate(parts, axis=0).astype(np.int64)


def values_of(program: ScaledProgram, job: NDArray[np.int64], config: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scaled values int64 [n] of n (job, configuration) pairs; configuration -1 is worth 0."""
    return np.asarray(np.where(config >= 0, program.value[job, np.maximum(config, 0)], 0), dtype=np.int64)
