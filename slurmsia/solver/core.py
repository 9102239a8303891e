"""The exact core: what survives elimination by reduced cost, as small padded arrays.

With prices u and their bound U, a choice that takes (i, c) is worth at most U minus the reduced-cost loss of (i, c);
whoever cannot beat the best known choice that way is dropped, which loses no better choice (Sia's program is a
multiple-choice knapsack; this is its classical core argument, with the bound kept global). Jobs with one
survivor are decided. No search happens here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .greedy import needs_of, values_of
from .prices import Prices
from .scaled import ScaledProgram

Ints = NDArray[np.int64]

#: Loss of a padding entry: never taken.
NOT_AN_OPTION = 2**60


@dataclass(frozen=True, slots=True)
class Core:
    """Undecided jobs and their options.

    ``jobs`` [K] positions among the free jobs; ``config`` [K, P] (-1 = queued, -2 = padding); ``value`` [K, P];
    ``need`` [rows + side rows, K, P]; ``limit`` [rows + side rows] left by the decided jobs; ``decided`` [free jobs]
    the choice with 0 information at ``jobs``; ``decided_value`` its value. ``options`` [K, P] tells padding apart.
    """

    jobs: Ints
    config: Ints
    value: Ints
    need: Ints
    limit: Ints
    options: NDArray[np.bool_]
    decided: Ints
    decided_value: int

    def dual(self, prices: Ints) -> tuple[int, Ints]:
        """Bound on everything the core allows at given prices, and the loss [K, P] of each option under it."""
        bounds, losses = self.duals(prices[None])
        return int(bounds[0]), losses[0]

    def duals(self, prices: Ints) -> tuple[Ints, Ints]:
        """As `dual` for several price vectors [D, rows] at once: bounds [D] and losses [D, K, P]."""
        rows, jobs, width = self.need.shape
        priced = self.value - (prices @ self.need.reshape(rows, jobs * width)).reshape(len(prices), jobs, width)
        priced[:, ~self.options] = -NOT_AN_OPTION
        best: Ints = np.asarray(priced.max(axis=2), dtype=np.int64)
        loss: Ints = np.subtract(best[:, :, None], priced, out=priced)
        loss[:, ~self.options] = NOT_AN_OPTION
        return self.decided_value + best.sum(axis=1) + prices @ self.limit, loss

    def full(self, picks: Ints) -> Ints:
        """The choice [free jobs] when core job k takes its option ``picks[k]``."""
        choice: Ints = self.decided.copy()
        choice[self.jobs] = self.config[np.arange(len(self.jobs)), picks]
        return np.asarray(choice)


def survivors(program: ScaledProgram, priced: Prices, threshold: int) -> Core | None:
    """The core of all choices worth more than ``threshold``; ``None`` when there is no such choice."""
    budget = priced.bound - threshold
    if budget <= 0:
        return None
    loss = np.concatenate([priced.best[:, None] - priced.reduced, priced.best[:, None]], axis=1)
    alive = loss < budget
    counts = alive.sum(axis=1)
    if (counts == 0).any():
        return None
    columns = program.value.shape[1]
    first = alive.argmax(axis=1)
    decided = np.where(first == columns, -1, first)
    open_jobs = np.nonzero(counts > 1)[0]
    decided[open_jobs] = -1
    limit = np.concatenate([program.limit - program.used(decided), program.side_limits() - program.used_side(decided)])
    if (limit < 0).any():
        return None
    return _padded(program, open_jobs, alive[open_jobs], decided, limit)


def restricted(program: ScaledProgram, choice: Ints, jobs: Ints, configs: Ints) -> Core:
    """The core in which only ``jobs`` may change, each to one of its ``configs`` (parallel arrays, -1 = queued)."""
    columns = program.value.shape[1]
    open_jobs, place = np.unique(jobs, return_inverse=True)
    alive = np.zeros((len(open_jobs), columns + 1), dtype=bool)
    alive[place, configs] = True
    alive[np.arange(len(open_jobs)), choice[open_jobs]] = True
    decided = choice.copy()
    decided[open_jobs] = -1
    limit = np.concatenate([program.limit - program.used(decided), program.side_limits() - program.used_side(decided)])
    return _padded(program, open_jobs, alive, decided, limit)


def _padded(program: ScaledProgram, jobs: Ints, alive: NDArray[np.bool_], decided: Ints, limit: Ints) -> Core:
    columns = program.value.shape[1]
    width = int(alive.sum(axis=1).max(initial=1))
    row, column = np.nonzero(alive)
    start = np.concatenate([[0], np.cumsum(alive.sum(axis=1))])
    place = np.arange(len(row)) - start[row]
    config = np.where(column == columns, -1, column)
    shape = (len(jobs), width)
    table = np.full(shape, -2, dtype=np.int64)
    value = np.zeros(shape, dtype=np.int64)
    need = np.zeros((len(limit), *shape), dtype=np.int64)
    table[row, place] = config
    value[row, place] = values_of(program, jobs[row], config)
    need[:, row, place] = needs_of(program, jobs[row], config)
    return Core(jobs, table, value, need, limit, table != -2, decided, program.worth(decided))


def narrowed(core: Core, duals: tuple[Ints, Ints], threshold: int) -> Core | None:
    """The core without options that any of several duals (bounds, losses) proves unable to beat ``threshold``."""
    bounds, losses = duals
    alive = core.options & (losses < (bounds - threshold)[:, None, None]).all(axis=0)
    counts = alive.sum(axis=1)
    if (counts == 0).any():
        return None
    one = counts == 1
    picks = alive.argmax(axis=1)
    fixed = np.nonzero(one)[0]
    decided = core.decided.copy()
    decided[core.jobs[fixed]] = core.config[fixed, picks[fixed]]
    limit = core.limit - core.need[:, fixed, picks[fixed]].sum(axis=1)
    if (limit < 0).any():
        return None
    keep = np.nonzero(~one)[0]
    order = np.argsort(~alive[keep], axis=1, kind="stable")[:, : int(counts[keep].max(initial=1))]
    kept = keep[:, None]
    options = alive[kept, order]
    return Core(
        jobs=core.jobs[keep],
        config=np.where(options, core.config[kept, order], -2),
        value=np.where(options, core.value[kept, order], 0),
        need=np.where(options, core.need[:, kept, order], 0),
        limit=limit,
        options=options,
        decided=decided,
        decided_value=core.decided_value + int(core.value[fixed, picks[fixed]].sum()),
    )
