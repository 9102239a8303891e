"""CP-SAT on what is left: the core when sweeps do not close the gap, or the whole program for the reference mode.

Values are divided by a whole number so that coefficients fit 30 bits; the division rounds down and the bound gives
back one step a job, so it stays proven. Deterministic: fixed seed, deterministic time, one worker unless asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model

from .core import Core
from .program import SolverLimits

Ints = NDArray[np.int64]

#: Coefficients of the objective stay below 2**this.
_COEFFICIENT_BITS = 30


@dataclass(frozen=True, slots=True)
class Searched:
    """``picks`` [K] option per core job, ``None`` without a solution; ``bound`` on the core's worth; CP-SAT status."""

    picks: Ints | None
    worth: int
    bound: int
    status: str


def search(core: Core, hint: Ints, limits: SolverLimits, relative_gap: float) -> Searched:
    """Maximise the core. ``hint`` [K] is the option each job takes in the best known choice, -1 for none of them."""
    jobs, options = np.nonzero(core.options)
    step = max(1, int(core.value.max(initial=0)) >> _COEFFICIENT_BITS)
    worth = core.value[jobs, options] // step
    model = cp_model.CpModel()
    taken = [model.new_bool_var("") for _ in range(len(jobs))]
    starts = np.concatenate([[0], np.cumsum(core.options.sum(axis=1))])
    for first, last in pairwise(starts.tolist()):
        model.add_exactly_one(taken[first:last])
    for row, limit in enumerate(core.limit):
        need = core.need[row, jobs, options]
        used = np.nonzero(need)[0]
        if len(used):
            model.add(cp_model.LinearExpr.weighted_sum([taken[i] for i in used], need[used].tolist()) <= int(limit))
    model.maximize(cp_model.LinearExpr.weighted_sum(taken, worth.tolist()))
    hinted = hint[jobs] == options
    for variable, value in zip(taken, hinted.tolist(), strict=True):
        model.add_hint(variable, value)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = limits.workers
    solver.parameters.random_seed = limits.seed % 2**31
    solver.parameters.max_deterministic_time = limits.deterministic_time
    solver.parameters.max_time_in_seconds = limits.wall_s
    solver.parameters.relative_gap_limit = relative_gap
    status = solver.solve(model)
    name = solver.status_name(status)
    most = int(core.value.max(axis=1, initial=0).sum())
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Searched(None, 0, core.decided_value + most, name)
    picks = np.zeros(len(core.jobs), dtype=np.int64)
    chosen = np.array([solver.boolean_value(variable) for variable in taken], dtype=bool)
    picks[jobs[chosen]] = options[chosen]
    value = int(core.value[np.arange(len(picks)), picks].sum())
    bound = min(most, (int(np.floor(solver.best_objective_bound + 0.5)) + len(core.jobs)) * step)
    return Searched(picks, core.decided_value + value, core.decided_value + max(bound, value), name)
