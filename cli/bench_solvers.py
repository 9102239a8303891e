"""General integer-programming solvers on the identical program of a round, for comparison in one run.

HiGHS through SciPy, CBC and SCIP through OR-Tools' linear solver, CP-SAT through our reference mode. Each gets the
best it can be given: a sparse model built outside its time, a relative gap of 0, and a time limit.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from slurmsia.solver import Program, SolverLimits
from slurmsia.solver.reference import solve_reference


@dataclass(frozen=True)
class Answer:
    """``objective`` of the best solution (``None`` without one), the solver's bound, whether optimal, seconds."""

    objective: float | None
    bound: float
    optimal: bool
    seconds: float


@dataclass(frozen=True)
class Linear:
    """maximise ``worth`` x with ``matrix`` x <= ``upper``, x in {0, 1}; ``fixed`` is the value of pinned jobs."""

    worth: np.ndarray
    matrix: sparse.csr_matrix
    upper: np.ndarray
    fixed: float


def linear(program: Program) -> Linear:
    """The program as a sparse 0-1 program; pinned jobs taken out of the capacity."""
    jobs = program.value.shape[0]
    free = program.pinned < 0
    sound = program.valid & np.isfinite(program.value) & (program.value >= 0) & free[:, None]
    row, column = np.nonzero(sound)
    held = program.pinned[~free]
    fixed = float(program.value[np.nonzero(~free)[0], held].sum())
    count = len(row)
    parts = [sparse.csr_matrix((np.ones(count), (row, np.arange(count))), shape=(jobs, count))]
    upper = [np.ones(jobs)]
    for capacity in program.rows:
        parts.append(sparse.csr_matrix(capacity.need[column].astype(float)[None, :]))
        upper.append(np.array([capacity.limit - capacity.need[held].sum()], dtype=float))
    return Linear(program.value[row, column], sparse.vstack(parts).tocsr(), np.concatenate(upper), fixed)


def highs(model: Linear, limit_s: float) -> Answer:
    """HiGHS, single solve, gap 0."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    started = time.perf_counter()
    found = milp(
        -model.worth,
        constraints=LinearConstraint(model.matrix, -np.inf, model.upper),
        integrality=np.ones(len(model.worth)),
        bounds=Bounds(0, 1),
        options={"time_limit": limit_s, "mip_rel_gap": 0.0},
    )
    seconds = time.perf_counter() - started
    objective = None if found.x is None else -float(found.fun) + model.fixed
    dual = getattr(found, "mip_dual_bound", None)
    bound = float("inf") if dual is None else -float(dual) + model.fixed
    return Answer(objective, bound, found.status == 0, seconds)


def linear_solver(model: Linear, name: str, limit_s: float) -> Answer | None:
    """CBC or SCIP in OR-Tools' wheel; ``None`` where the wheel has no such solver."""
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver(name)
    if solver is None:
        return None
    x = [solver.BoolVar("") for _ in model.worth]
    matrix = model.matrix
    for row in range(matrix.shape[0]):
        constraint = solver.Constraint(-solver.infinity(), float(model.upper[row]))
        for at in range(matrix.indptr[row], matrix.indptr[row + 1]):
            constraint.SetCoefficient(x[matrix.indices[at]], float(matrix.data[at]))
    goal = solver.Objective()
    for variable, worth in zip(x, model.worth.tolist(), strict=True):
        goal.SetCoefficient(variable, worth)
    goal.SetMaximization()
    solver.SetTimeLimit(int(limit_s * 1000))
    parameters = pywraplp.MPSolverParameters()
    parameters.SetDoubleParam(parameters.RELATIVE_MIP_GAP, 0.0)
    started = time.perf_counter()
    status = solver.Solve(parameters)
    seconds = time.perf_counter() - started
    if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return Answer(None, float("inf"), False, seconds)
    bound = float(goal.BestBound()) + model.fixed
    return Answer(float(goal.Value()) + model.fixed, bound, status == pywraplp.Solver.OPTIMAL, seconds)


def cp_sat(program: Program, limit_s: float, workers: int) -> Answer:
    """CP-SAT alone on the whole program."""
    started = time.perf_counter()
    limits = SolverLimits(gap=0.0, deterministic_time=1e9, wall_s=limit_s, workers=workers)
    found = solve_reference(program, limits)
    return Answer(found.objective, found.bound, found.gap < 1e-7, time.perf_counter() - started)


def against(name: str, program: Program, limit_s: float) -> Answer | None:
    """One answer by solver name: "HiGHS", "CBC", "SCIP", "CP-SAT", "CP-SAT 2 workers"."""
    if name.startswith("CP-SAT"):
        return cp_sat(program, limit_s, 2 if "2" in name else 1)
    model = linear(program)
    with _quiet():
        return highs(model, limit_s) if name == "HiGHS" else linear_solver(model, name, limit_s)


@contextmanager
def _quiet() -> Iterator[None]:
    """Sends file descriptor 1 away meanwhile: HiGHS prints from C, which would spoil JSON on standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
