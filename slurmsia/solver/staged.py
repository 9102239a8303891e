"""The staged solve of a round: prices, greedy, exact core; the best feasible choice wins and its gap is proven.

`solve` never raises and never returns less than a feasible previous choice. Every fall-back it takes is a sentence
in ``Solution.notes``. It knows values and rows only; what they mean is the policy's business.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .core import survivors
from .deepening import Effort, deepen
from .exchange import improved
from .greedy import greedy
from .prices import SMALL_JOBS, Prices, price
from .program import Program, Solution, SolverLimits
from .scaled import ScaledProgram, exact_objective, scale

Ints = NDArray[np.int64]

#: States that sweeps look at before CP-SAT takes over, about half a second.
_SWEEP_STATES = 3_000_000
#: States spent on closing the gap altogether once it is below the limit.
_POLISH_STATES = 500_000
#: States that a small program may cost before its choice is improved by exchanges as that of a large one is.
_SMALL_STATES = 100_000


def solve(program: Program, limits: SolverLimits | None = None) -> Solution:
    """The best choice found for a round with a proven bound (Sia, section 3).

    Never raises on any input of consistent shapes; NaN and +inf values are treated as not valid, -inf forbids.
    """
    limits = limits or SolverLimits()
    try:
        return _staged(program, limits)
    except Exception as failure:  # the round must go on whatever happens in here
        return _previous(program, f"the solver failed ({type(failure).__name__}: {failure}); allocations stay")


def _staged(program: Program, limits: SolverLimits) -> Solution:
    clock = _Clock()
    scaled = scale(program)
    notes = list(scaled.notes)
    clock.lap("scale")
    priced = price(scaled)
    clock.lap("prices")
    choice, stage = _best(scaled, [(greedy(scaled, priced), "greedy"), (_feasible_hint(scaled), "previous")])
    worth, bound = scaled.worth(choice), priced.bound
    clock.lap("greedy")
    try:
        good = int(limits.gap * max(worth + scaled.fixed_value / scaled.unit, 0.0))
        effort = Effort(
            enough=0 if limits.exact else good,
            good=good,
            polish=_POLISH_STATES,
            states=_SWEEP_STATES,
        )
        if len(scaled.jobs) <= SMALL_JOBS:
            little = replace(effort, states=_SMALL_STATES, polish=_SMALL_STATES)
            proven = deepen(scaled, priced, choice, little, lambda: clock.total() > limits.wall_s)
            choice, worth, bound = proven.choice, proven.worth, proven.bound
            clock.lap("core")
        if bound - worth > effort.enough:
            choice = improved(scaled, priced, choice, good, lambda: clock.total() > limits.wall_s)
            clock.lap("exchange")
            proven = deepen(scaled, priced, choice, effort, lambda: clock.total() > limits.wall_s)
            choice, worth, bound = proven.choice, proven.worth, min(proven.bound, bound)
            clock.lap("core")
        stage = "core" if len(scaled.jobs) else stage
        if bound - worth > good and clock.total() > limits.wall_s:
            notes.append(f"the wall-clock watchdog of {limits.wall_s:g} s stopped the search")
        elif bound - worth > good:
            left = replace(limits, wall_s=max(limits.wall_s - clock.total(), 0.1))
            choice, bound, note = _cpsat(scaled, priced, choice, bound, left)
            notes.append(note)
            clock.lap("cp-sat")
    except Exception as failure:  # whatever the core does, greedy and the previous choice are still good
        notes.append(f"the core failed ({type(failure).__name__}: {failure}); the {stage} choice stands")
    return _solution(program, scaled, choice, bound, stage, tuple(notes), clock.laps())


def _cpsat(
    scaled: ScaledProgram, priced: Prices, choice: Ints, bound: int, limits: SolverLimits
) -> tuple[Ints, int, str]:
    """CP-SAT on everything that could still beat ``choice``: the better choice, the better bound, and a sentence."""
    from .cpsat import search

    worth = scaled.worth(choice)
    core = survivors(scaled, priced, worth - 1)
    if core is None:
        return choice, worth, "nothing can beat the choice"
    known = choice[core.jobs]
    hint = np.where((core.config == known[:, None]).any(axis=1), (core.config == known[:, None]).argmax(axis=1), -1)
    found = search(core, hint, limits, 0.9 * limits.gap)
    bound = min(bound, max(found.bound, worth))
    note = f"CP-SAT on {len(core.jobs)} undecided jobs: {found.status.lower()}"
    if found.picks is None:
        return choice, bound, note
    better = core.full(found.picks)
    if not scaled.feasible(better) or scaled.worth(better) < worth:
        return choice, bound, note
    return better, max(bound, scaled.worth(better)), note


def _solution(
    program: Program,
    scaled: ScaledProgram,
    choice: Ints,
    bound: int,
    stage: str,
    notes: tuple[str, ...],
    times_s: tuple[tuple[str, float], ...],
) -> Solution:
    full = scaled.fixed.copy()
    full[scaled.jobs] = choice
    objective = exact_objective(program, full)
    proven = objective if bound == scaled.worth(choice) else bound * scaled.unit + scaled.error + scaled.fixed_value
    proven = max(proven, objective)
    return Solution(
        choice=tuple(int(c) for c in full),
        objective=objective,
        bound=proven,
        gap=(proven - objective) / max(abs(objective), 1e-9),
        stage=stage,
        notes=notes,
        times_s=times_s,
    )


def _best(scaled: ScaledProgram, found: list[tuple[Ints | None, str]]) -> tuple[Ints, str]:
    """The most valuable feasible choice; the first one wins a tie."""
    best: tuple[Ints, str] = (np.full(len(scaled.jobs), -1, dtype=np.int64), "greedy")
    worth = -1
    for choice, stage in found:
        if choice is None or not scaled.feasible(choice):
            continue
        value = scaled.worth(choice)
        if value > worth:
            best, worth = (choice, stage), value
    return best


def _feasible_hint(scaled: ScaledProgram) -> Ints | None:
    return scaled.hint if scaled.feasible(scaled.hint) else None


def _previous(program: Program, note: str) -> Solution:
    """Pins and nothing else but what jobs hold already, as far as it is valid: the answer of last resort."""
    columns = program.value.shape[1]
    choice = np.where(program.pinned >= 0, program.pinned, program.hint)
    choice = np.where((choice >= -1) & (choice < columns), choice, -1).astype(np.int64)
    objective = exact_objective(program, choice)
    return Solution(tuple(int(c) for c in choice), objective, float("inf"), float("inf"), "previous", (note,))


class _Clock:
    """Seconds per stage; shown, never part of an answer."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = self._laps.get(name, 0.0) + now - self._last
        self._last = now

    def total(self) -> float:
        return time.perf_counter() - self._start

    def laps(self) -> tuple[tuple[str, float], ...]:
        return tuple(self._laps.items())
