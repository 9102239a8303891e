"""Water-filling: raise the worst-off jobs together until a type is full, hold those, raise the rest (Gavel, 4.2).

Fractions of time per (job, configuration) by a sequence of linear programs. Pure; knows nothing of rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

Floats = NDArray[np.float64]

#: Levels that are told apart; beyond the last one what is left goes where the total rate is largest.
_LEVELS = 6


def waterfill(rate: Floats, need: Sequence[tuple[Floats, float]]) -> Floats:
    """Fractions [jobs, C] that make the smallest row sum of ``rate`` x fraction as large as can be, then the next.

    ``rate`` [jobs, C] is 0 where there is no configuration; ``need`` lists (GPUs per column, limit) per type. Jobs
    whose rows are all 0 get nothing. Returns zeros where the linear program fails.
    """
    jobs, columns = rate.shape
    row, column = np.nonzero(rate > 0)
    fractions = np.zeros((jobs, columns))
    live = np.unique(row)
    if not len(live):
        return fractions
    count = len(row)
    position = np.searchsorted(live, row)
    gain = rate[row, column]
    served = sparse.csr_matrix((gain, (position, np.arange(count))), shape=(len(live), count))
    at_most_one = sparse.csr_matrix((np.ones(count), (position, np.arange(count))), shape=(len(live), count))
    capacity = sparse.csr_matrix(np.array([gpus[column] for gpus, _ in need]).reshape(len(need), count))
    limits = np.concatenate([np.ones(len(live)), [limit for _, limit in need]])
    fixed = sparse.vstack([at_most_one, capacity]).tocsr()
    floor, last = np.full(len(live), -1.0), 0.0
    found = np.zeros(count)
    for _ in range(_LEVELS):
        rising = floor < 0
        if not rising.any():
            break
        level = sparse.csr_matrix(rising.astype(float)[:, None])
        matrix = sparse.vstack(
            [sparse.hstack([fixed, sparse.csr_matrix((fixed.shape[0], 1))]), sparse.hstack([-served, level])]
        ).tocsr()
        upper = np.concatenate([limits, np.where(rising, 0.0, -np.maximum(floor, 0.0) * (1 - 1e-9))])
        goal = np.zeros(count + 1)
        goal[-1] = -1.0
        answer = linprog(goal, A_ub=matrix, b_ub=upper, bounds=(0, None), method="highs-ipm")
        if answer.x is None:
            break
        found = answer.x[:count]
        held = rising & (np.asarray(answer.ineqlin.marginals)[-len(live) :] < -1e-9)
        last = float(answer.x[-1])
        floor[held if held.any() else rising] = last
    floor[floor < 0] = last
    matrix = sparse.vstack([fixed, -served]).tocsr()
    upper = np.concatenate([limits, -floor * (1 - 1e-7)])
    answer = linprog(-gain, A_ub=matrix, b_ub=upper, bounds=(0, None), method="highs-ipm")
    fractions[row, column] = np.round(found if answer.x is None else answer.x, 9)
    return fractions
