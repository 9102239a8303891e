"""Serves a policy that is a total order instead of a program: one row after the other takes its first wish that fits.

Rows and pins mean what they mean in a program, so that both kinds of policy keep the same limits. It never moves a
pinned job and never breaks a row for any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..policy.base import Order
from .program import CapacityRow, SideRow


def serve(
    order: Order,
    valid: NDArray[np.bool_],
    pinned: NDArray[np.int64],
    rows: Sequence[CapacityRow],
    side: Sequence[SideRow] = (),
) -> NDArray[np.int64]:
    """Choice int64 [J], -1 = queued. ``valid`` bool [J, C]; ``pinned`` int64 [J], -1 = free: they come first and keep
    their column even over a limit; every other row takes the first of its wishes that all rows still allow."""
    count, columns = valid.shape
    need = np.array([row.need for row in rows], dtype=np.int64).reshape(len(rows), columns)
    left = np.array([row.limit for row in rows], dtype=np.int64)
    side_need: dict[tuple[int, int], list[tuple[int, int]]] = {}
    side_left = [row.limit for row in side]
    for number, limit in enumerate(side):
        for job, column, gpus in zip(limit.jobs.tolist(), limit.configs.tolist(), limit.need.tolist(), strict=True):
            side_need.setdefault((job, column), []).append((number, gpus))
    choice = np.full(count, -1, dtype=np.int64)

    def take(job: int, column: int) -> None:
        nonlocal left
        choice[job] = column
        left = left - need[:, column]
        for at, gpus in side_need.get((job, column), ()):
            side_left[at] -= gpus

    def fits(job: int, column: int) -> bool:
        return (
            bool(valid[job, column])
            and bool((need[:, column] <= left).all())
            and all(gpus <= side_left[at] for at, gpus in side_need.get((job, column), ()))
        )

    for job in np.flatnonzero(pinned >= 0).tolist():
        take(job, int(pinned[job]))
    for job in order.order:
        if choice[job] < 0:
            column = next((column for column in order.wishes[job] if fits(job, column)), None)
            if column is not None:
                take(job, column)
    return choice


def worth_of_wishes(order: Order, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[J, C] what each column is worth to a row by the rank of its wishes: 1, 1/2, 1/3, ...; 0 where it has no wish,
    -inf where it is not valid."""
    value = np.where(valid, 0.0, -np.inf)
    for job, wishes in enumerate(order.wishes):
        for rank, column in enumerate(wishes):
            if valid[job, column]:
                value[job, column] = max(value[job, column], 1.0 / (1.0 + rank))
    return value
