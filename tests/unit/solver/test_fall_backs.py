"""The solver's way down: every fall-back gives a valid answer and says what happened."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from slurmsia.solver import CapacityRow, Program, SideRow, SolverLimits, solve, staged
from slurmsia.solver.reference import solve_reference


def stacked(jobs: int = 60, seed: int = 0, limit: int | None = None) -> Program:
    """Distinct concave jobs on two types with tight capacity: nothing is decided without a search."""
    rng = np.random.default_rng(seed)
    gpus = np.array([1, 2, 4, 8, 1, 2, 4, 8])
    speed = np.outer(rng.uniform(0.5, 1.0, jobs), np.ones(8)) * np.log2(2 * gpus) ** rng.uniform(0.3, 1.2, (jobs, 1))
    speed[:, 4:] *= rng.uniform(1.0, 3.0, (jobs, 1))
    value = 1.1 - (speed / speed.min(axis=1, keepdims=True)) ** -0.5
    limit = jobs + 7 if limit is None else limit
    rows = (
        CapacityRow("a", np.where(np.arange(8) < 4, gpus, 0), limit),
        CapacityRow("b", np.where(np.arange(8) < 4, 0, gpus), limit // 2),
    )
    nothing = np.full(jobs, -1)
    return Program(value, np.ones_like(value, dtype=bool), rows, (), nothing, nothing)


def broken(*_: object, **__: object) -> object:
    raise RuntimeError("out of order")


def test_a_failing_core_leaves_the_greedy_choice_and_a_sentence(monkeypatch):
    exact = solve(stacked())
    monkeypatch.setattr(staged, "deepen", broken)
    solution = solve(stacked())
    assert solution.stage == "greedy"
    assert any("core failed" in note and "out of order" in note for note in solution.notes)
    assert 0 < solution.objective <= exact.objective
    assert solution.bound >= exact.objective


def test_a_failing_solver_leaves_what_jobs_hold_now(monkeypatch):
    monkeypatch.setattr(staged, "scale", broken)
    program = stacked(4)
    held = Program(program.value, program.valid, program.rows, (), np.array([-1, 3, -1, -1]), np.array([0, 3, -1, 99]))
    solution = solve(held)
    assert solution.choice == (0, 3, -1, -1)
    assert solution.stage == "previous"
    assert "allocations stay" in solution.notes[0]


def test_a_better_previous_choice_is_never_given_up_for_a_worse_greedy_one(monkeypatch):
    program = stacked()
    best = np.array(solve(program).choice)
    monkeypatch.setattr(staged, "deepen", broken)
    monkeypatch.setattr(staged, "greedy", lambda scaled, priced: np.full(len(scaled.jobs), -1))
    solution = solve(Program(program.value, program.valid, program.rows, (), program.pinned, best))
    assert solution.choice == tuple(best.tolist())
    assert solution.stage == "previous"


def test_without_effort_for_sweeps_cp_sat_proves_the_gap(monkeypatch):
    monkeypatch.setattr(staged, "_SWEEP_STATES", 0)
    monkeypatch.setattr(staged, "_SMALL_STATES", 0)
    program = stacked()
    solution = solve(program, SolverLimits(gap=1e-9))
    assert any("CP-SAT" in note for note in solution.notes)
    assert solution.objective == pytest.approx(solve_reference(program).objective, rel=1e-7)
    assert solution.gap <= 1e-6


def test_a_watchdog_that_bites_says_so_and_the_answer_still_stands():
    solution = solve(stacked(), SolverLimits(gap=0.0, wall_s=0.0))
    assert any("watchdog" in note for note in solution.notes)
    assert solution.objective > 0
    assert solution.bound >= solution.objective


def test_bad_numbers_are_left_out_and_named():
    program = stacked(5)
    program.value[0, 0] = np.nan
    program.value[1, 1] = np.inf
    program.value[2, 2] = -np.inf
    solution = solve(program)
    assert any("2 values are not finite" in note for note in solution.notes)
    assert np.isfinite(solution.objective)


def test_pins_beyond_the_capacity_are_kept_and_named_and_nothing_is_added():
    program = stacked(3, limit=4)
    pinned = Program(program.value, program.valid, program.rows, (), np.array([3, -1, -1]), np.array([3, -1, -1]))
    solution = solve(pinned)
    assert solution.choice[0] == 3
    assert all(c < 0 or c >= 4 for c in solution.choice[1:])
    assert any("exceed a by 4" in note for note in solution.notes)


def test_a_side_row_in_watts_binds_as_exactly_as_a_row_of_gpus():
    program = stacked(40)
    jobs, configs = np.nonzero(program.valid)
    watts = SideRow("power", jobs, configs, 137 + 300 * (1 << (configs % 4)), 15_000)
    limited = Program(program.value, program.valid, program.rows, (watts,), program.pinned, program.hint)
    solution = solve(limited)
    used = sum(137 + 300 * (1 << (c % 4)) for c in solution.choice if c >= 0)
    assert used <= 15_000
    assert solution.gap <= 1e-4
    assert solution.objective == pytest.approx(solve_reference(limited).objective, rel=1e-4)


def test_equal_jobs_share_the_capacity_to_within_the_gap():
    program = stacked(80)
    equal = Program(
        np.repeat(program.value[:1], 80, axis=0), program.valid, program.rows, (), program.pinned, program.hint
    )
    solution = solve(equal)
    assert solution.gap <= 1e-4
    assert solution.objective == pytest.approx(solve_reference(equal).objective, rel=1e-4)


def test_no_jobs_and_no_rows_are_programs_too():
    nothing = Program(np.zeros((0, 3)), np.zeros((0, 3), dtype=bool), (), (), np.zeros(0, int), np.zeros(0, int))
    assert solve(nothing).choice == ()
    free = Program(np.array([[1.0, 2.0]]), np.ones((1, 2), bool), (), (), np.array([-1]), np.array([-1]))
    assert solve(free).choice == (1,)


def test_the_answer_is_the_same_under_any_hash_seed_and_blas_kernel():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_fall_backs import stacked; "
        "from slurmsia.solver import solve; print(solve(stacked(200, 3)).choice)"
    )
    answers = set()
    for extra in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "OPENBLAS_CORETYPE": "Nehalem"}):
        ran = subprocess.run(
            [sys.executable, "-c", code, os.path.dirname(__file__)],
            env={**os.environ, **extra},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.add(ran.stdout)
    assert len(answers) == 1
