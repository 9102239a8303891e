"""Reference mode: the whole program by CP-SAT alone, without prices, elimination or greedy. For tests and benches.

Slow by design; it shares nothing with the staged solve but the whole-number form of the program.
"""

from __future__ import annotations

import numpy as np

from .core import Core
from .cpsat import search
from .greedy import needs_of, values_of
from .program import Program, Solution, SolverLimits
from .scaled import exact_objective, scale


def solve_reference(program: Program, limits: SolverLimits | None = None) -> Solution:
    """The optimum by CP-SAT; ``limits.gap`` is its relative gap (default 0), ``limits.wall_s`` its time (60 s)."""
    limits = limits or SolverLimits(gap=0.0, deterministic_time=1e9, wall_s=60.0)
    scaled = scale(program)
    jobs, columns = scaled.value.shape
    alive = np.concatenate([scaled.valid, np.ones((jobs, 1), dtype=bool)], axis=1)
    config = np.where(np.arange(columns + 1) == columns, -1, np.arange(columns + 1))
    table = np.broadcast_to(config, alive.shape).copy()
    row, column = np.nonzero(alive)
    value = np.zeros(alive.shape, dtype=np.int64)
    value[row, column] = values_of(scaled, row, table[row, column])
    limit = np.concatenate([scaled.limit, scaled.side_limits()])
    need = np.zeros((len(limit), *alive.shape), dtype=np.int64)
    need[:, row, column] = needs_of(scaled, row, table[row, column])
    queued = np.full(jobs, -1, dtype=np.int64)
    core = Core(np.arange(jobs), np.where(alive, table, -2), value, need, limit, alive, queued, 0)
    hint = np.where(scaled.hint >= 0, scaled.hint, columns)
    found = search(core, hint, limits, limits.gap)
    choice = scaled.fixed.copy()
    choice[scaled.jobs] = queued if found.picks is None else core.full(found.picks)
    objective = exact_objective(program, choice)
    bound = max(found.bound * scaled.unit + scaled.error + scaled.fixed_value, objective)
    return Solution(
        choice=tuple(int(c) for c in choice),
        objective=objective,
        bound=bound,
        gap=(bound - objective) / max(abs(objective), 1e-9),
        stage="reference",
        notes=(*scaled.notes, f"CP-SAT: {found.status.lower()}"),
    )
