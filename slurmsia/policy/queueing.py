"""What the policies without a program share: who comes first, and what each job would like in turn.

A job keeps what it holds where that has the requested size, else it asks for the requested size on its fastest type,
then for less. Undeclared jobs come first, by Slurm priority: slurmsia must not make them wait.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Order
from .rows import Rows


def in_order(rows: Rows, key: NDArray[np.float64]) -> Order:
    """The order of ascending ``key`` [jobs], ties by earlier submission and then by job id; wishes per row."""
    candidates = rows.problem.candidates
    keys = key.tolist()

    def place(row: int) -> tuple[int, float, float, str]:
        candidate = candidates[row]
        if not candidate.managed:
            return 0, -_number(candidate.priority), 0.0, candidate.job_id
        return 1, _number(keys[row]), -_number(candidate.age_s), candidate.job_id

    ranked = sorted(range(len(candidates)), key=place)
    return Order(tuple(ranked), tuple(wishes(rows, i) for i in range(len(candidates))))


def wishes(rows: Rows, row: int) -> tuple[int, ...]:
    """Columns in the order in which the job would take them."""
    candidate = rows.problem.candidates[row]
    usable = np.nonzero(rows.usable[row])[0].tolist()
    shapes = rows.problem.shapes
    wanted = candidate.requested.gpus if candidate.requested is not None else candidate.min_gpus

    def rank(c: int) -> tuple[int, float, int]:
        return 0 if c == candidate.current else 1, -float(rows.goodput[row, c]), c

    exact = [c for c in usable if shapes[c].gpus == wanted]
    smaller = [c for c in usable if shapes[c].gpus < wanted]
    return tuple(sorted(exact or smaller or usable, key=rank))


def _number(value: float) -> float:
    return value if np.isfinite(value) else 0.0
