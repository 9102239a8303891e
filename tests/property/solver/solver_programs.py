"""Random programs of a round for the solver's property tests: small enough for an exhaustive search, odd on purpose."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from slurmsia.solver import CapacityRow, Program, SideRow


@st.composite
def programs(draw: st.DrawFn, most_jobs: int = 6, most_columns: int = 5, odd: bool = True) -> Program:
    """Any program: ties, zero limits, pins, infeasible hints, side rows; with ``odd`` also NaN and infinities."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    jobs, columns = draw(st.integers(0, most_jobs)), draw(st.integers(1, most_columns))
    steps = draw(st.sampled_from([3, 20, 10**9]))
    value = rng.integers(-steps // 4, steps + 1, (jobs, columns)) / steps * draw(st.sampled_from([1.0, 1e-6, 1e6]))
    if odd and draw(st.booleans()) and value.size:
        value.reshape(-1)[rng.integers(0, value.size, 2)] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    valid = rng.random((jobs, columns)) < draw(st.sampled_from([1.0, 0.7]))
    rows = tuple(
        CapacityRow(f"row {r}", rng.integers(0, 6, columns), int(rng.integers(0, 4 * max(jobs, 1))))
        for r in range(draw(st.integers(0, 4)))
    )
    side = []
    for s in range(draw(st.integers(0, 2))):
        some_jobs, some_columns = np.nonzero(rng.random((jobs, columns)) < 0.5)
        need = rng.integers(0, 500, len(some_jobs))
        side.append(SideRow(f"side {s}", some_jobs, some_columns, need, int(rng.integers(0, 250 * max(jobs, 1)))))
    hint = rng.integers(-1, columns, jobs)
    pinned = np.where(rng.random(jobs) < draw(st.sampled_from([0.0, 0.3])), rng.integers(0, columns, jobs), -1)
    return Program(value, valid, rows, tuple(side), pinned, np.where(pinned >= 0, pinned, hint))


def usage(program: Program, choice: tuple[int, ...]) -> list[tuple[str, int, int, bool]]:
    """(name, used by all, limit, whether pinned jobs alone exceed it) of every row."""
    found = []
    pins = tuple(int(p) for p in program.pinned)
    for row in program.rows:
        used = sum(int(row.need[c]) for c in choice if c >= 0)
        found.append((row.name, used, row.limit, sum(int(row.need[c]) for c in pins if c >= 0) > row.limit))
    for row in program.side:
        table = dict(zip(zip(row.jobs.tolist(), row.configs.tolist(), strict=True), row.need.tolist(), strict=True))
        used = sum(table.get((i, c), 0) for i, c in enumerate(choice))
        found.append((row.name, used, row.limit, sum(table.get((i, c), 0) for i, c in enumerate(pins)) > row.limit))
    return found


def feasible(program: Program, choice: tuple[int, ...]) -> bool:
    """Pins kept, no invalid entry, every row held (rows that the pins alone break: nothing beside the pins)."""
    for i, c in enumerate(choice):
        pin = int(program.pinned[i])
        if pin >= 0:
            if c != pin:
                return False
        elif c >= 0 and not (program.valid[i, c] and np.isfinite(program.value[i, c])):
            return False
    alone = usage(program, tuple(int(p) for p in program.pinned))
    for (_, used, limit, broken), (_, pinned_use, _, _) in zip(usage(program, choice), alone, strict=True):
        if used > (pinned_use if broken else limit):
            return False
    return True


def worth(program: Program, choice: tuple[int, ...]) -> float:
    """Sum of the values of a choice; entries that are no numbers count nothing."""
    values = [program.value[i, c] for i, c in enumerate(choice) if c >= 0]
    return float(sum(v for v in values if np.isfinite(v)))


def best_by_enumeration(program: Program) -> float:
    """The optimum by looking at every choice."""
    jobs, columns = program.value.shape
    options: list[list[int]] = []
    for i in range(jobs):
        pin = int(program.pinned[i])
        sound: NDArray[np.bool_] = program.valid[i] & np.isfinite(program.value[i])
        options.append([pin] if pin >= 0 else [-1, *(c for c in range(columns) if sound[c])])
    return max(worth(program, choice) for choice in itertools.product(*options) if feasible(program, choice))


@st.composite
def tight_programs(draw: st.DrawFn) -> Program:
    """Distinct jobs with concave speed on two types and odd, scarce capacity: only a search finds the optimum."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    jobs = draw(st.integers(20, 60))
    gpus = np.array([1, 2, 4, 8, 1, 2, 4, 8])
    first = np.arange(8) < 4
    speed = np.log2(2 * gpus)[None, :] ** rng.uniform(0.3, 1.2, (jobs, 1))
    speed = np.where(first, speed, speed * rng.uniform(1.0, 3.0, (jobs, 1)))
    value = 1.1 - (speed / speed.min(axis=1, keepdims=True)) ** -0.5
    limits = jobs + draw(st.integers(0, jobs)), jobs // 2 + draw(st.integers(0, 9))
    rows = (
        CapacityRow("first", np.where(first, gpus, 0), limits[0]),
        CapacityRow("second", np.where(first, 0, gpus), limits[1]),
    )
    nothing = np.full(jobs, -1)
    return Program(value, np.ones_like(value, dtype=bool), rows, (), nothing, nothing)
