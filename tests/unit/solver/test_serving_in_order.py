"""Policies that are an order: who is served with what."""

from __future__ import annotations

import numpy as np

from slurmsia.policy.base import Order
from slurmsia.solver import CapacityRow, SideRow
from slurmsia.solver.serve import serve, worth_of_wishes

GPUS = np.array([1, 2, 4])
ANY = np.ones((3, 3), dtype=bool)
FREE = np.full(3, -1)


def row(limit: int) -> tuple[CapacityRow, ...]:
    return (CapacityRow("t4", GPUS, limit),)


def test_each_job_in_turn_takes_its_first_wish_that_is_left() -> None:
    order = Order((2, 0, 1), ((2, 1, 0), (2, 0), (2,)))
    assert serve(order, ANY, FREE, row(7)).tolist() == [1, 0, 2]


def test_pinned_jobs_come_first_and_keep_their_column() -> None:
    order = Order((0, 1, 2), ((2, 0), (0,), ()))
    assert serve(order, ANY, np.array([-1, 1, -1]), row(3)).tolist() == [0, 1, -1]


def test_a_wish_that_is_not_valid_is_passed_over() -> None:
    valid = ANY.copy()
    valid[0, 2] = False
    assert serve(Order((0,), ((2, 1), (), ())), valid, FREE, row(9)).tolist() == [1, -1, -1]


def test_side_rows_hold_across_jobs() -> None:
    quota = SideRow("account", np.array([0, 0, 1]), np.array([1, 2, 1]), np.array([2, 4, 2]), 4)
    order = Order((0, 1, 2), ((2,), (1, 0), (1,)))
    assert serve(order, ANY, FREE, row(9), (quota,)).tolist() == [2, 0, 1]


def test_a_column_is_worth_less_the_later_it_is_wished() -> None:
    valid = ANY.copy()
    valid[0, 0] = False
    value = worth_of_wishes(Order((0,), ((2, 0, 1), (), ())), valid)
    assert value[0].tolist() == [-np.inf, 1 / 3, 1.0]
    assert value[1].tolist() == [0.0, 0.0, 0.0]
