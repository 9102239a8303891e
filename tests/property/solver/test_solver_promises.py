"""What the solver promises for any program, however odd."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_programs import best_by_enumeration, feasible, programs, tight_programs, worth

from slurmsia.solver import SolverLimits, solve
from slurmsia.solver.greedy import greedy
from slurmsia.solver.prices import evaluate, price
from slurmsia.solver.reference import solve_reference
from slurmsia.solver.scaled import scale


@settings(max_examples=150, deadline=None)
@given(programs())
def test_every_row_and_pin_is_kept_and_no_invalid_configuration_is_chosen(program):
    assert feasible(program, solve(program).choice)


@settings(max_examples=100, deadline=None)
@given(programs(most_jobs=5, most_columns=4))
def test_the_optimum_is_the_one_found_by_looking_at_every_choice(program):
    solution = solve(program)
    best = best_by_enumeration(program)
    tolerance = 1e-9 * max(1.0, abs(best))
    assert abs(solution.objective - best) <= tolerance
    assert solution.bound >= best - tolerance
    assert solution.gap >= 0.0


@settings(max_examples=100, deadline=None)
@given(programs())
def test_the_objective_reported_is_the_worth_of_the_choice(program):
    solution = solve(program)
    assert solution.objective == worth(program, solution.choice) or np.isclose(
        solution.objective, worth(program, solution.choice), rtol=1e-12, atol=0
    )


@settings(max_examples=80, deadline=None)
@given(programs(most_jobs=12))
def test_solve_beats_greedy_and_greedy_beats_a_choice_without_moves(program):
    scaled = scale(program)
    greedily = greedy(scaled, price(scaled))
    full = scaled.fixed.copy()
    full[scaled.jobs] = greedily
    solution = solve(program)
    tolerance = 1e-9 * max(1.0, abs(solution.objective))
    assert scaled.feasible(greedily)
    assert solution.objective >= worth(program, tuple(full.tolist())) - tolerance
    previous = tuple(program.hint.tolist())
    if feasible(program, previous):
        assert solution.objective >= worth(program, previous) - tolerance


@settings(max_examples=60, deadline=None)
@given(programs(most_jobs=12))
def test_equal_programs_get_equal_answers(program):
    again = dataclasses.replace(program, value=program.value.copy(), valid=program.valid.copy())
    assert solve(program) == solve(again)


@settings(max_examples=80, deadline=None)
@given(programs(most_jobs=5, most_columns=4), st.integers(0, 2**32 - 1))
def test_any_prices_whatever_bound_every_feasible_choice(program, seed):
    scaled = scale(program)
    rows = len(scaled.limit) + len(scaled.side)
    prices = np.random.default_rng(seed).integers(0, max(2, int(scaled.value.max(initial=0)) // 2), rows)
    bound = evaluate(scaled, prices).bound * scaled.unit + scaled.error + scaled.fixed_value
    best = best_by_enumeration(program)
    assert bound >= best - 1e-9 * max(1.0, abs(best))


@settings(max_examples=25, deadline=None)
@given(programs(most_jobs=9, most_columns=6))
def test_the_reference_mode_finds_the_same_optimum(program):
    staged, reference = solve(program), solve_reference(program)
    assert np.isclose(staged.objective, reference.objective, rtol=1e-7, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(tight_programs())
def test_scarce_capacity_is_used_as_well_as_a_general_solver_would(program):
    staged, reference = solve(program), solve_reference(program)
    assert staged.objective >= reference.objective * (1 - 1e-8)
    assert staged.bound >= reference.objective * (1 - 1e-8)
    assert staged.gap <= 1e-4


@settings(max_examples=40, deadline=None)
@given(programs(most_jobs=12), st.sampled_from([0.0, 1e-4, 1e-2]))
def test_a_solve_that_may_stop_early_still_proves_its_gap(program, gap):
    exact = solve(program)
    early = solve(program, SolverLimits(gap=gap, exact=False))
    tolerance = 1e-9 * max(1.0, abs(exact.objective))
    assert early.bound >= exact.objective - tolerance
    assert feasible(program, early.choice)
    assert early.gap <= gap + 1e-9
