"""The program of a round and its solution, as values: the multiple-choice knapsack of Sia (SOSP 2023), section 3.

Built by `round.py` from a policy's terms and the free capacity; solved by this package. No policy knowledge here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CapacityRow:
    """sum over chosen (i, c) of ``need[c]`` <= ``limit``; one per GPU type and block size (`capacity.py`)."""

    name: str
    need: NDArray[np.int64]
    limit: int


@dataclass(frozen=True, slots=True)
class SideRow:
    """A side constraint with per-(job, configuration) needs: quotas, power. Sparse: parallel arrays."""

    name: str
    jobs: NDArray[np.int64]
    configs: NDArray[np.int64]
    need: NDArray[np.int64]
    limit: int


@dataclass(frozen=True, slots=True)
class Program:
    """maximise sum value[i, c] x[i, c]; at most one c per i; rows hold; pins kept.

    ``value``: float64 [J, C]; ``valid``: bool [J, C] (no variable elsewhere); ``pinned`` int64 [J], -1 = free;
    ``hint`` int64 [J]: previous choice, -1 = queued.
    """

    value: NDArray[np.float64]
    valid: NDArray[np.bool_]
    rows: tuple[CapacityRow, ...]
    side: tuple[SideRow, ...]
    pinned: NDArray[np.int64]
    hint: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SolverLimits:
    """Deterministic limits inside; ``wall_s`` is only a watchdog and, when it bites, is reported in ``stage``."""

    gap: float = 1e-4
    deterministic_time: float = 4.0
    wall_s: float = 20.0
    workers: int = 1
    seed: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Solution:
    """``choice`` int64 [J] (-1 = queued), its objective, a proven upper bound, and how it came about.

    ``gap`` = (bound - objective) / max(|objective|, 1e-9), never negative. ``stage``: "core", "greedy", "previous".
    ``notes``: sentences on every fall-back taken. ``times_s``: seconds per stage; not part of equality.
    """

    choice: tuple[int, ...]
    objective: float
    bound: float
    gap: float
    stage: str
    notes: tuple[str, ...] = ()
    times_s: tuple[tuple[str, float], ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Solution) and (
            (self.choice, self.objective, self.bound, self.stage)
            == (other.choice, other.objective, other.bound, other.stage)
        )

    def __hash__(self) -> int:
        return hash((self.choice, self.objective, self.stage))
