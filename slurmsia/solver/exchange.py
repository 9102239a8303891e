"""Several changes at a time: what single changes cannot improve because one job must give before another can take.

Many equal jobs make many equal changes; of changes that use capacity alike only the best few are looked at, so ties
cost nothing. Whole numbers only, ties broken by position; the choice stays feasible at every step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .core import narrowed, restricted
from .greedy import Changes, drawn, needs_of, values_of
from .prices import Prices
from .scaled import ScaledProgram
from .sweep import sweep

Ints = NDArray[np.int64]

#: Changes paired with each other in a round, cheapest by reduced cost.
_PAIRED = 320
#: Changes kept of those that use capacity alike, where two are paired.
_ALIKE = 3
#: Rounds of pairing at most, and pairs taken in one round.
_ROUNDS, _TAKEN = 40, 40
#: Further draws tried where the first is not good enough.
_DRAWS = 2
#: Recombinations at most; and for each, the changes it may use, how many of them that use capacity alike, and the
#: states it may look at: the wider ones only where a narrower one finds nothing.
_RECOMBINED = 60
_BREADTHS = ((60, 2, 60_000), (30, 1, 40_000), (150, 3, 150_000))


def improved(
    program: ScaledProgram, priced: Prices, choice: Ints, enough: int, expired: Callable[[], bool] = lambda: False
) -> Ints:
    """``choice`` (feasible) made better by several changes at a time; never worse, and feasible."""
    if not len(program.jobs) or priced.bound <= program.worth(choice):
        return choice
    changes = Changes(program, priced)
    best = exchanged(changes, choice)
    for seed in range(1, 1 + _DRAWS):
        if priced.bound - program.worth(best) <= enough or expired():
            return best
        other = exchanged(changes, changes.filled(changes.repaired(drawn(priced, seed))))
        if program.worth(other) > program.worth(best):
            best = other
    return recombined(changes, priced, best, enough, expired)


def exchanged(changes: Changes, choice: Ints) -> Ints:
    """A choice worth at least ``choice`` (feasible), by pairs of changes that together fit and gain."""
    program, limits = changes.program, changes.limits
    choice = choice.copy()
    for _ in range(_ROUNDS):
        now = choice[changes.job]
        delta = changes.need - needs_of(program, changes.job, now)
        gain = changes.value - values_of(program, changes.job, now)
        dear = changes.loss - changes.all_loss[changes.job, now + 1]
        kept = _promising(delta, dear, now != changes.config, _ALIKE)[:_PAIRED]
        if len(kept) < 2:
            break
        free = limits - changes.used(choice)
        pairs = _pairs(delta[:, kept], gain[kept], changes.job[kept], free)
        before = choice.copy()
        touched: set[int] = set()
        for one, two in pairs:
            a, b = int(kept[one]), int(kept[two])
            jobs = {int(changes.job[a]), int(changes.job[b])}
            need = delta[:, a] + (delta[:, b] if a != b else 0)
            if touched & jobs or (need > free).any():
                continue
            choice[changes.job[a]], choice[changes.job[b]] = changes.config[a], changes.config[b]
            free = free - need
            touched |= jobs
        if (before == choice).all():
            break
    return choice


def recombined(
    changes: Changes, priced: Prices, choice: Ints, enough: int, expired: Callable[[], bool] = lambda: False
) -> Ints:
    """A choice worth at least ``choice`` (feasible), by sweeps over its most promising changes taken together.

    Ends once the choice is within ``enough`` of the price bound, or when the changes looked at gain nothing more.
    """
    program, breadth = changes.program, 0
    for _ in range(_RECOMBINED):
        worth = program.worth(choice)
        if priced.bound - worth <= enough or expired():
            break
        now = choice[changes.job]
        delta = changes.need - needs_of(program, changes.job, now)
        dear = changes.loss - changes.all_loss[changes.job, now + 1]
        most, alike, states = _BREADTHS[breadth]
        kept = _promising(delta, dear, now != changes.config, alike)[:most]
        core = restricted(program, choice, changes.job[kept], changes.config[kept])
        small = narrowed(core, core.duals(priced.prices[None]), worth)
        found = None if small is None else sweep(small, priced.prices, worth, states, choice, expired)
        if small is not None and found is not None and found.picks is not None:
            choice, breadth = small.full(found.picks), 0
        elif breadth + 1 < len(_BREADTHS):
            breadth += 1
        else:
            break
    return choice


def _promising(delta: Ints, dear: Ints, real: NDArray[np.bool_], alike: int) -> Ints:
    """Changes worth pairing: the best ``alike`` of each way of using capacity, cheapest first."""
    where = np.flatnonzero(real)
    weights = np.random.default_rng(0).integers(1, 2**40, len(delta)) | 1
    marks = weights @ delta[:, where]
    order = np.lexsort((where, dear[where], marks))
    marks = marks[order]
    start = np.flatnonzero(np.concatenate([[True], marks[1:] != marks[:-1]])) if len(marks) else np.zeros(0, int)
    rank = np.arange(len(marks)) - np.repeat(start, np.diff(np.append(start, len(marks))))
    kept = where[order[rank < alike]]
    return np.asarray(kept[np.argsort(dear[kept], kind="stable")], dtype=np.int64)


def _pairs(delta: Ints, gain: Ints, job: Ints, free: Ints) -> list[tuple[int, int]]:
    """Pairs of changes of two jobs that fit ``free`` and gain, best first; a change with itself
    stands for that change alone."""
    both = gain[:, None] + gain[None, :]
    np.fill_diagonal(both, gain)
    good = (both > 0) & ((job[:, None] != job[None, :]) | np.eye(len(job), dtype=bool))
    one, two = np.nonzero(np.triu(good))
    for row in range(len(free)):
        need = delta[row, one] + np.where(one == two, 0, delta[row, two])
        fits = need <= free[row]
        one, two = one[fits], two[fits]
    best = np.argsort(-both[one, two], kind="stable")[:_TAKEN]
    return list(zip(one[best].tolist(), two[best].tolist(), strict=True))
