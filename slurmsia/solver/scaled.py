"""A program in whole numbers: bad input dropped, pins taken out, rows that can never bind removed.

Everything after this module is exact integer arithmetic, so a solve gives the same answer whatever the BLAS kernel,
hash seed or summation order. It must never raise on finite or NaN input; what it drops it says in ``notes``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .program import Program

#: Sums of scaled values stay below this, so that they are exact in float64 as well as in int64.
_EXACT = 2.0**52
#: The finest grid: values are rounded to 2**-40 of a unit at most (error below 1e-12 per job).
_FINEST_BITS = 40
#: Tables of at most so many entries are looked at for all rows at once.
_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class SideNeeds:
    """One side row on the free jobs: ``flat`` indexes [free jobs x configurations] row by row; needs are >= 1."""

    name: str
    flat: NDArray[np.int64]
    need: NDArray[np.int64]
    limit: int


@dataclass(frozen=True, slots=True)
class ScaledProgram:
    """The free jobs of a program as integers.

    ``jobs``: indices of the free jobs in the program; ``value`` int64 [jobs, C], 0 where not ``valid``; ``need``
    int64 [rows, C] and ``limit`` int64 [rows] after the pinned jobs took theirs; ``fixed`` int64 [J]: the pins, -1
    elsewhere; ``fixed_value``: their exact value in program units; ``unit``: one integer step in program units;
    ``error``: the largest sum of all roundings, in program units.
    """

    jobs: NDArray[np.int64]
    value: NDArray[np.int64]
    valid: NDArray[np.bool_]
    need: NDArray[np.int64]
    limit: NDArray[np.int64]
    row_names: tuple[str, ...]
    side: tuple[SideNeeds, ...]
    hint: NDArray[np.int64]
    fixed: NDArray[np.int64]
    fixed_value: float
    unit: float
    error: float
    notes: tuple[str, ...]

    def used(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """Usage [rows] of a choice of the free jobs (-1 = queued)."""
        taken = choice[choice >= 0]
        return np.asarray(self.need[:, taken].sum(axis=1), dtype=np.int64)

    def used_side(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """Usage [side rows] of a choice of the free jobs."""
        if not self.side:
            return np.zeros(0, dtype=np.int64)
        columns = self.value.shape[1]
        jobs = np.nonzero(choice >= 0)[0]
        chosen = np.zeros(self.value.size, dtype=bool)
        chosen[jobs * columns + choice[jobs]] = True
        return np.array([int(row.need[chosen[row.flat]].sum()) for row in self.side], dtype=np.int64)

    def side_limits(self) -> NDArray[np.int64]:
        return np.array([row.limit for row in self.side], dtype=np.int64)

    def feasible(self, choice: NDArray[np.int64]) -> bool:
        """Whether a choice of the free jobs keeps every row."""
        return bool((self.used(choice) <= self.limit).all() and (self.used_side(choice) <= self.side_limits()).all())

    def worth(self, choice: NDArray[np.int64]) -> int:
        """Integer objective of a choice of the free jobs."""
        jobs = np.nonzero(choice >= 0)[0]
        return int(self.value[jobs, choice[jobs]].sum())


def exact_objective(program: Program, choice: NDArray[np.int64]) -> float:
    """Objective of a choice in program units; a pin on an entry that is not finite counts 0."""
    jobs = np.nonzero(choice >= 0)[0]
    values = program.value[jobs, choice[jobs]]
    return float(np.where(np.isfinite(values), values, 0.0).sum())


def scale(program: Program) -> ScaledProgram:
    """The program in whole numbers. Dropped input (NaN, pins that do not exist, misshapen rows) is named in notes."""
    notes: list[str] = []
    value = np.asarray(program.value, dtype=np.float64)
    columns = value.shape[1]
    finite = np.isfinite(value)
    lost = int((program.valid & ~finite & ~np.isneginf(value)).sum())
    if lost:
        notes.append(f"{lost} values are not finite numbers; those configurations are left out")
    pinned = np.asarray(program.pinned, dtype=np.int64).copy()
    impossible = pinned >= columns
    if impossible.any():
        notes.append(f"{int(impossible.sum())} pins name no configuration; those jobs are free")
    pinned = np.where(impossible | (pinned < 0), -1, pinned)

    rows = [row for row in program.rows if len(row.need) == columns]
    if len(rows) < len(program.rows):
        notes.append(f"{len(program.rows) - len(rows)} capacity rows have the wrong length and are left out")
    need = np.array([np.maximum(row.need, 0) for row in rows], dtype=np.int64).reshape(len(rows), columns)
    held = pinned[pinned >= 0]
    limit = np.array([row.limit for row in rows], dtype=np.int64) - need[:, held].sum(axis=1)
    for row, left in zip(rows, limit, strict=True):
        if left < 0:
            notes.append(f"pinned jobs alone exceed {row.name} by {-int(left)}; nothing else may use it")
    limit = np.maximum(limit, 0)

    free = np.nonzero(pinned < 0)[0]
    valid = program.valid[free] & finite[free] & (value[free] >= 0.0)
    valid &= (need[:, None, :] <= limit[:, None, None]).all(axis=0) if len(rows) else True
    side, valid = _side_needs(program, pinned, free, valid, notes)

    best = float(np.where(valid, value[free], 0.0).max(axis=1, initial=0.0).sum()) if len(free) else 0.0
    bits = _FINEST_BITS if best <= 0 else min(_FINEST_BITS, int(np.floor(np.log2(_EXACT / best))))
    unit = 2.0**-bits
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.where(valid, np.rint(np.where(valid, value[free], 0.0) / unit), 0.0).astype(np.int64)

    binding = _binding_rows(need, limit, valid)
    hint = np.asarray(program.hint, dtype=np.int64)[free]
    hint = np.where((hint >= 0) & (hint < columns), hint, -1)
    rowed = np.arange(len(free))
    hint = np.where((hint >= 0) & valid[rowed, np.maximum(hint, 0)], hint, -1)
    return ScaledProgram(
        jobs=free,
        value=whole,
        valid=valid,
        need=need[binding],
        limit=limit[binding],
        row_names=tuple(rows[i].name for i in np.nonzero(binding)[0]),
        side=side,
        hint=hint,
        fixed=pinned,
        fixed_value=exact_objective(program, pinned),
        unit=unit,
        error=0.5 * unit * len(free),
        notes=tuple(notes),
    )


def _side_needs(
    program: Program,
    pinned: NDArray[np.int64],
    free: NDArray[np.int64],
    valid: NDArray[np.bool_],
    notes: list[str],
) -> tuple[tuple[SideNeeds, ...], NDArray[np.bool_]]:
    """Side rows on the free jobs, and ``valid`` without entries that alone break one of them."""
    jobs_n, columns = program.value.shape
    position = np.full(jobs_n, -1, dtype=np.int64)
    position[free] = np.arange(len(free))
    found: list[SideNeeds] = []
    for row in program.side:
        jobs, configs = np.asarray(row.jobs, dtype=np.int64), np.asarray(row.configs, dtype=np.int64)
        needs = np.asarray(row.need, dtype=np.int64)
        inside = (jobs >= 0) & (jobs < jobs_n) & (configs >= 0) & (configs < columns) & (needs > 0)
        jobs, configs, needs = jobs[inside], configs[inside], needs[inside]
        table = np.zeros(jobs_n * columns, dtype=np.int64)
        np.add.at(table, jobs * columns + configs, needs)
        grid = table.reshape(jobs_n, columns)
        fixed = np.nonzero(pinned >= 0)[0]
        left = int(row.limit) - int(grid[fixed, pinned[fixed]].sum())
        if left < 0 and len(fixed) and grid[fixed, pinned[fixed]].any():
            notes.append(f"pinned jobs alone exceed {row.name} by {-left}; nothing else may use it")
        left = max(left, 0)
        mine = grid[free]
        valid = valid & (mine <= left)
        touched = np.nonzero((mine > 0) & valid)
        if len(touched[0]) and int(np.where(valid, mine, 0).max(axis=1).sum()) > left:
            found.append(SideNeeds(row.name, touched[0] * columns + touched[1], mine[touched], left))
    del position
    return tuple(found), valid


def _binding_rows(need: NDArray[np.int64], limit: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows that can bind: not satisfied by every choice, and not implied by one other row."""
    count = len(limit)
    keep: NDArray[np.bool_]
    if count * valid.size <= _AT_ONCE:
        keep = np.where(valid, need[:, None, :], 0).max(axis=2, initial=0).sum(axis=1) > limit
    else:
        keep = np.array([np.where(valid, row, 0).max(axis=1, initial=0).sum() for row in need]) > limit
    used = need[:, valid.any(axis=0)]
    # [row, other]: whatever keeps the other row keeps this one
    implied = (used[:, None, :] * limit[None, :, None] <= used[None, :, :] * limit[:, None, None]).all(axis=2)
    implied &= limit != 0
    np.fill_diagonal(implied, False)
    for row in np.flatnonzero(keep & implied.any(axis=1)).tolist():
        keep[row] = not (implied[row] & keep).any()
    return keep
