"""Search of the core job by job, keeping for every used capacity only the best way to use it.

A state is a vector of used capacity; two ways to the same vector differ in value only, so the better one stays. A
state whose bound under any of several price vectors cannot beat the best known choice is dropped. Where states
outgrow the width, the least promising go and the best bound among them is remembered: what comes out is always the
best choice seen **and** a proven bound on everything not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core import NOT_AN_OPTION, Core

Ints = NDArray[np.int64]

#: States after a step: used capacity [rows, states], key, budget, state and option that each came from.
_Grown = tuple[NDArray[np.integer[Any]], Ints, Ints, Ints, NDArray[np.int8]]

#: Price of one row up and down by these factors, the others at their optimum: each gives one more bound on a state.
_TILTS = (-0.8, -0.3, -0.1, 0.1, 0.3, 0.8)
#: Bounds on the states kept after a step, whatever the effort; a kept state takes about 50 bytes.
_NARROWEST, _WIDEST = 200, 400_000
#: A step may keep this many times its even share of the effort that is left: states come and go.
_AHEAD = 4
#: Where states must go, straying from the known choice costs this fraction of the worth of the capacity.
_ASTRAY = 16
#: States cost more with more rows than this, in proportion.
_FEW_ROWS = 8
#: Tilted bounds are looked up in tables only where there are this many states.
_FEW_STATES = 400
#: Rows over which states are spread wider than this get no tilted bounds.
_LONGEST_TABLE = 20_000
#: Overhead of one step in states, so that wide cores with few states count what they cost.
_STEP_STATES = 300


@dataclass(frozen=True, slots=True)
class Swept:
    """``picks`` [K] option per core job of the best choice beyond the threshold, ``None`` if there is none.

    ``worth``: its value; ``bound``: no choice is worth more; ``states``: work done, in states looked at.
    """

    picks: Ints | None
    worth: int
    bound: int
    states: int


def sweep(
    core: Core, prices: Ints, threshold: int, effort: int, known: Ints, expired: Callable[[], bool] = lambda: False
) -> Swept:
    """Best choice of the core worth more than ``threshold``, looking at about ``effort`` states.

    ``prices`` [rows + side rows]; ``known`` [free jobs] a feasible choice: where states must go, those stay whose
    use of capacity is like its own. ``expired`` is asked before each job. Ties go to the state found first.
    """
    bound, loss = core.dual(prices)
    if bound <= threshold:
        return Swept(None, threshold, threshold, 0)
    order = _order(loss)
    walls = _Walls(core, prices, order)
    keys = _Keys(core)
    wide = int(core.limit.max(initial=0)) >= 2**30
    used: NDArray[np.integer[Any]] = np.zeros((len(core.limit), 1), dtype=np.int64 if wide else np.int32)
    key = np.zeros(1, dtype=np.int64)
    budget = np.array([bound - threshold], dtype=np.int64)
    history: list[tuple[NDArray[np.int32], NDArray[np.int8]]] = []
    dropped, looked = threshold, 0
    path = np.cumsum(_needs_of_known(core, known)[:, order], axis=1)
    dear = max(1, len(core.limit) // _FEW_ROWS)
    for step, job in enumerate(order.tolist()):
        if expired():
            return Swept(None, threshold, max(dropped, threshold + int(budget.max())), looked)
        room = walls.room(step)
        grow = _grown if len(key) < _FEW_STATES else _grown_far
        used, key, budget, parents, options = grow(core, keys, walls, step, job, room, used, key, budget, loss)
        looked += len(key) * dear + _STEP_STATES
        if not len(key):
            return Swept(None, threshold, dropped, looked)
        keep = _best_of_equals(key, budget, None if keys.exact else used)
        width = min(_WIDEST, max(_NARROWEST, _AHEAD * (effort - looked) // (dear * (len(order) - step))))
        if len(keep) > width:
            astray = prices @ np.abs(used[:, keep] - path[:, step][:, None])
            ranked = np.argsort(astray // _ASTRAY - budget[keep], kind="stable")
            dropped = max(dropped, threshold + int(budget[keep[ranked[width:]]].max()))
            keep = keep[np.sort(ranked[:width])]
        used, key, budget = used[:, keep], key[keep], budget[keep]
        history.append((parents[keep].astype(np.int32), options[keep]))
    over = budget - prices @ (core.limit[:, None] - used)
    over[(used > core.limit[:, None]).any(axis=0)] = 0
    best = int(over.argmax())
    if int(over[best]) <= 0:
        return Swept(None, threshold, dropped, looked)
    worth = threshold + int(over[best])
    return Swept(_trace(order, history, best), worth, max(dropped, worth), looked)


def _grown(
    core: Core,
    keys: _Keys,
    walls: _Walls,
    step: int,
    job: int,
    room: Ints,
    used: NDArray[np.integer[Any]],
    key: Ints,
    budget: Ints,
    loss: Ints,
) -> _Grown:
    """Few states with each option of a job that fits and pays, option by option: all at once."""
    options = np.nonzero(core.options[job])[0]
    need = core.need[:, job, options].astype(used.dtype)
    left = budget - loss[job, options][:, None]
    alive = left > 0
    alive &= (used[:, None, :] <= (room[:, None] - need)[:, :, None]).all(axis=0)
    which, parent = np.nonzero(alive)
    return (
        used[:, parent] + need[:, which],
        key[parent] + keys.shifts[job, options[which]],
        left[which, parent],
        parent,
        options[which].astype(np.int8),
    )


def _grown_far(
    core: Core,
    keys: _Keys,
    walls: _Walls,
    step: int,
    job: int,
    room: Ints,
    used: NDArray[np.integer[Any]],
    key: Ints,
    budget: Ints,
    loss: Ints,
) -> _Grown:
    """As `_grown` for many states, most of which the tables of tilted bounds rule out."""
    tables = walls.tables(step, used)
    tabled = {row for row, _, _ in tables}
    runs = []
    for option in np.nonzero(core.options[job])[0].tolist():
        need = core.need[:, job, option].astype(used.dtype)
        left = budget - loss[job, option]
        alive = left > 0
        for row, lowest, table in tables:
            alive &= left > table[used[row] + (need[row] - lowest)]
        for row in (row for row in range(len(need)) if row not in tabled):
            alive &= used[row] <= room[row] - need[row]
        parent = np.nonzero(alive)[0]
        shift = int(keys.shifts[job, option])
        runs.append((used[:, parent] + need[:, None], key[parent] + shift, left[parent], parent))
    return (
        np.concatenate([run[0] for run in runs], axis=1),
        np.concatenate([run[1] for run in runs]),
        np.concatenate([run[2] for run in runs]),
        np.concatenate([run[3] for run in runs]),
        np.repeat(np.nonzero(core.options[job])[0].astype(np.int8), [len(run[3]) for run in runs]),
    )


def _needs_of_known(core: Core, known: Ints) -> Ints:
    """[rows, K]: what the known choice needs of each core job; its least where that option did not survive."""
    same = (core.config == known[core.jobs][:, None]) & core.options
    least = core.need.min(axis=2, where=core.options[None], initial=2**60)
    taken = core.need[:, np.arange(len(same)), same.argmax(axis=1)]
    return np.asarray(np.where(same.any(axis=1)[None, :], taken, least), dtype=np.int64)


class _Walls:
    """What budget a state needs at least to be worth keeping, per row and used capacity, from tilted prices.

    Raising one row's price by d changes the bound of a state by d x (its free capacity) plus what the remaining jobs
    gain, so a state survives only if its budget exceeds the worst such loss: a table lookup.
    """

    def __init__(self, core: Core, prices: Ints, order: Ints) -> None:
        self._core, self._prices, self._order = core, prices, order
        self._limit = core.limit
        self._least = _suffix_sums(core.need.min(axis=2, where=core.options[None], initial=2**60)[:, order])
        self._most = core.need.max(axis=(1, 2), initial=0)

    @cached_property
    def _tilts(self) -> list[list[tuple[int, Ints]]]:
        """Per row: (change of its price, what the jobs from each step on gain by it); few states need none."""
        core, prices, order = self._core, self._prices, self._order
        best = _best(core, prices)[order]
        found: list[list[tuple[int, Ints]]] = []
        for row, own in enumerate(prices.tolist()):
            found.append([])
            for delta in sorted({int(own * tilt) for tilt in _TILTS} - {0}):
                tilted = prices.copy()
                tilted[row] += delta
                gains = _suffix_sums((_best(core, tilted)[order] - best)[None, :])[0]
                found[row].append((delta, gains))
        return found

    def room(self, step: int) -> Ints:
        """[rows]: the most that may be used once ``step`` is taken, so that the remaining jobs still fit."""
        return np.asarray(self._limit - self._least[:, step + 1], dtype=np.int64)

    def tables(self, step: int, used: NDArray[np.integer[Any]]) -> list[tuple[int, int, Ints]]:
        """(row, lowest used capacity, budget needed from there on) once ``step`` is taken from states ``used``."""
        room, low = self.room(step), used.min(axis=1)
        high = used.max(axis=1) + self._most
        found = []
        for row, tilts in enumerate(self._tilts):
            if high[row] - low[row] > _LONGEST_TABLE:
                continue
            levels = np.arange(int(low[row]), int(high[row]) + 1)
            free = self._limit[row] - levels
            table = np.zeros(len(levels), dtype=np.int64)
            for delta, gains in tilts:
                np.maximum(table, -delta * free - gains[step + 1], out=table)
            table[levels > room[row]] = NOT_AN_OPTION
            found.append((row, int(low[row]), table))
        return found


class _Keys:
    """One number per used-capacity vector: mixed radix where that fits 62 bits, else a hash checked on collision."""

    def __init__(self, core: Core) -> None:
        most = np.minimum(core.limit, core.need.max(axis=2, initial=0).sum(axis=1))
        strides = [1]
        for size in most.tolist():
            strides.append(strides[-1] * (int(size) + 1))
        self.exact = strides[-1] < 2**62
        if not self.exact:
            strides = [(0x9E3779B97F4A7C15 * (2 * row + 1) ** 3) % 2**63 | 1 for row in range(len(most))]
        weights = np.array(strides[: len(most)], dtype=np.uint64)
        self.shifts = (
            (core.need.astype(np.uint64) * weights[:, None, None]).sum(axis=0, dtype=np.uint64).astype(np.int64)
        )


def _best_of_equals(key: Ints, budget: Ints, used: NDArray[np.integer[Any]] | None) -> Ints:
    """Indices of the best state of each used-capacity vector in key order; ``used`` is compared where keys may lie."""
    order = np.argsort(key, kind="stable")
    while len(order) > 1:
        ranked = key[order]
        same = np.nonzero(ranked[1:] == ranked[:-1])[0]
        if used is not None:
            same = same[(used[:, order[same]] == used[:, order[same + 1]]).all(axis=0)]
        if not len(same):
            break
        loses = np.where(budget[order[same]] >= budget[order[same + 1]], same + 1, same)
        stays = np.ones(len(order), dtype=bool)
        stays[loses] = False
        order = order[stays]
    return np.asarray(order, dtype=np.int64)


def _trace(order: Ints, history: list[tuple[NDArray[np.int32], NDArray[np.int8]]], state: int) -> Ints:
    picks = np.zeros(len(order), dtype=np.int64)
    for step in range(len(order) - 1, -1, -1):
        parents, options = history[step]
        picks[order[step]] = options[state]
        state = int(parents[state])
    return picks


def _order(loss: Ints) -> Ints:
    """Jobs by their cheapest second choice, dearest first: the cheap ones, which multiply states, come last."""
    if not loss.size:
        return np.zeros(0, dtype=np.int64)
    second = np.partition(loss, 1, axis=1)[:, 1]
    return np.argsort(-second, kind="stable")


def _best(core: Core, prices: Ints) -> Ints:
    priced = core.value - np.tensordot(prices, core.need, axes=1)
    return np.asarray(
        np.where(core.options, priced, -NOT_AN_OPTION).max(axis=1, initial=-NOT_AN_OPTION), dtype=np.int64
    )


def _suffix_sums(table: Ints) -> Ints:
    """[rows, K] -> [rows, K + 1]: sums from each column to the end."""
    sums = np.zeros((table.shape[0], table.shape[1] + 1), dtype=np.int64)
    sums[:, :-1] = np.cumsum(table[:, ::-1], axis=1)[:, ::-1]
    return sums
