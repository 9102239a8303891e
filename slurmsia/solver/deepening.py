"""Finds and proves the best choice of the core by sweeps whose ambition grows step by step.

A sweep that looks for choices within a small distance of the price bound is cheap. If it finds one, that one is the
best there is; if not, the bound comes down by that distance and the next sweep looks a little further. Work is
counted in states, never in seconds, so the answer does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .core import Core, narrowed, survivors
from .prices import Prices
from .scaled import ScaledProgram
from .sweep import sweep

Ints = NDArray[np.int64]

#: First distance below the price bound: this many jobs have a choice, or this share of what is open.
_FIRST_JOBS, _FIRST_OF_GAP = 60, 0.3
#: Growth of the distance after a sweep that was cheap (states) and after one that was not.
_CHEAP, _FAST, _SLOW = 15_000, 2.0, 1.5
#: Beside the optimal prices, each row's price this much up and down makes a further price vector.
_TILT = 0.3
#: States that one sweep may cost at first, and its growth after each sweep that was cut short.
_FIRST_PACE, _PACE_GROWTH = 1_000_000, 3
#: States of a sweep that only polishes; where that is too few, near ties abound and the rest is left as it is.
_POLISH_PACE = 250_000


@dataclass(frozen=True, slots=True)
class Effort:
    """``enough``: stop once bound - worth <= this; ``states`` in all, but only ``polish`` once it is <= ``good``."""

    enough: int
    good: int
    polish: int
    states: int


@dataclass(frozen=True, slots=True)
class Proven:
    """``choice`` of the free jobs, its ``worth``, a ``bound`` that nothing exceeds, and the ``states`` looked at."""

    choice: Ints
    worth: int
    bound: int
    states: int


def deepen(
    program: ScaledProgram, priced: Prices, choice: Ints, effort: Effort, expired: Callable[[], bool] = lambda: False
) -> Proven:
    """The best choice found from ``choice`` (feasible) with a proven bound, within the effort.

    ``expired`` is asked again and again; only a watchdog that has bitten says yes.
    """
    worth, bound, spent = program.worth(choice), priced.bound, 0
    whole = survivors(program, priced, worth)
    duals = None if whole is None else whole.duals(np.array(tilted(priced.prices)))
    reach, pace = _first_reach(whole, priced, bound - worth), _FIRST_PACE
    while bound - worth > effort.enough:
        polishing = bound - worth <= effort.good
        left = (effort.polish if polishing else effort.states) - spent
        if left <= 0 or expired():
            break
        threshold = max(worth, priced.bound - int(reach))
        core = whole
        if whole is not None and duals is not None:
            core = narrowed(whole, duals, threshold)
        if core is None:
            bound = min(bound, threshold)
            reach *= _FAST
            continue
        ahead = min(pace, _POLISH_PACE) if polishing else pace
        found = sweep(core, priced.prices, threshold, min(left, ahead), choice, expired)
        spent += found.states
        bound = min(bound, max(found.bound, worth))
        if found.picks is not None:
            choice, worth = core.full(found.picks), found.worth
        if found.bound > max(threshold, worth):
            if found.picks is None and (polishing or pace >= left):
                break
            pace *= _PACE_GROWTH
            continue
        reach *= _FAST if found.states < _CHEAP else _SLOW
    return Proven(choice, worth, max(bound, worth), spent)


def _first_reach(whole: Core | None, priced: Prices, gap: int) -> float:
    """Distance below the bound within which about `_FIRST_JOBS` jobs have a second choice."""
    if whole is None or not whole.options.size:
        return max(1.0, _FIRST_OF_GAP * gap)
    second = np.partition(whole.dual(priced.prices)[1], 1, axis=1)[:, 1]
    near = np.sort(second)[min(_FIRST_JOBS, len(second)) - 1]
    return max(1.0, min(_FIRST_OF_GAP * gap, float(near)))


def tilted(prices: Ints) -> list[Ints]:
    """The prices, and each row's price a little up and down: together they confine a state from every side."""
    found = [prices]
    for row in range(len(prices)):
        for factor in (1.0 + _TILT, 1.0 - _TILT):
            other = prices.copy()
            other[row] = int(prices[row] * factor)
            if other[row] != prices[row]:
                found.append(other)
    return found
