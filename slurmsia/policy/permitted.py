"""Which configurations a job's own limits allow: restarts forbidden, rigid request, budget, walltime, efficiency.

These are hard masks, the same for every policy. They only ever remove entries, and never the configuration that a
job holds now unless its budget is spent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..cluster import Shape
from ..config.policy import PolicySection
from .base import Candidate, RoundProblem


def permitted(problem: RoundProblem, options: PolicySection) -> NDArray[np.bool_]:
    """[jobs, C] mask of what limits leave; all true for jobs without limits."""
    columns = len(problem.shapes)
    allowed = np.ones((len(problem.candidates), columns), dtype=bool)
    for row, candidate in enumerate(problem.candidates):
        if not _limited(candidate, options):
            continue
        here = candidate.current if 0 <= candidate.current < columns else -1
        mask = allowed[row]
        if here >= 0 and (candidate.pinned or not candidate.may_move):
            mask[:] = False
            mask[here] = True
            continue
        if options.rigid and candidate.requested is not None:
            mask &= _as_requested(problem.shapes, candidate.requested)
        if candidate.gpu_h_left is not None:
            mask &= _affordable(problem, row, candidate.gpu_h_left)
        if candidate.min_efficiency is not None:
            mask &= _efficient(problem, row, candidate.min_efficiency)
        if candidate.walltime_left_s is not None and here >= 0:
            _no_late_moves(problem, candidate, row, mask)
        if here >= 0 and candidate.gpu_h_left is None:
            mask[here] = True
    return allowed


def _limited(candidate: Candidate, options: PolicySection) -> bool:
    held = candidate.current >= 0 and (candidate.pinned or not candidate.may_move)
    budgets = (candidate.gpu_h_left, candidate.min_efficiency, candidate.walltime_left_s)
    return held or options.rigid or any(budget is not None for budget in budgets)


def _as_requested(shapes: tuple[Shape, ...], requested: Shape) -> NDArray[np.bool_]:
    return np.array([shape.gpus == requested.gpus for shape in shapes], dtype=bool)


def _affordable(problem: RoundProblem, row: int, left_h: float) -> NDArray[np.bool_]:
    """What the GPU-hours left pay for: one round at least, and the rest of the work where any configuration can."""
    gpus = np.array([shape.gpus for shape in problem.shapes], dtype=np.float64)
    a_round = gpus * problem.round_s / 3600.0 <= max(left_h, 0.0)
    model = problem.models.get(problem.candidates[row].job_id)
    if model is None or model.work_remaining is None:
        return np.asarray(a_round)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_the_end = gpus * model.work_remaining / problem.matrix.goodput[row] / 3600.0 <= left_h
    ends = a_round & to_the_end & problem.valid[row]
    return np.asarray(ends if ends.any() else a_round)


def _efficient(problem: RoundProblem, row: int, least: float) -> NDArray[np.bool_]:
    """Goodput per GPU at least ``least`` times that of the smallest valid configuration of the same type."""
    goodput = problem.matrix.goodput[row]
    per_gpu = goodput / np.array([shape.gpus for shape in problem.shapes], dtype=np.float64)
    reference: dict[str, tuple[int, float]] = {}
    for column, shape in enumerate(problem.shapes):
        if not problem.valid[row, column]:
            continue
        if shape.gpu_type not in reference or shape.gpus < reference[shape.gpu_type][0]:
            reference[shape.gpu_type] = (shape.gpus, float(per_gpu[column]))
    floor = [least * reference.get(shape.gpu_type, (0, 0.0))[1] for shape in problem.shapes]
    return np.asarray(per_gpu >= np.array(floor) * (1 - 1e-9))


def _no_late_moves(problem: RoundProblem, candidate: Candidate, row: int, mask: NDArray[np.bool_]) -> None:
    """A job whose walltime ends within its restart cost and one round stays where it is."""
    model = problem.models.get(candidate.job_id)
    cost = model.restart.mean_s if model is not None else 60.0
    if (candidate.walltime_left_s or 0.0) <= cost + problem.round_s:
        mask[:] = False
        mask[candidate.current] = True
