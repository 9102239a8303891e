"""Section ``[solver]``: limits of a solve."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class SolverSection(Section):
    """Limits of a solve. Inside, limits are deterministic; the wall clock is only a watchdog."""

    gap: float = Field(default=1e-4, ge=0, le=0.1)
    """A proven relative gap that is good enough: beyond it only a short search goes on."""
    exact: bool = True
    """Close the gap altogether where that is cheap (a fraction of a second); false stops at `gap`."""
    deterministic_time: float = Field(default=4.0, gt=0, le=600)
    """Longest search by CP-SAT while the gap is larger than `gap`, in its units of about a second of work."""
    wall_s: float = Field(default=20.0, gt=0, le=3600)
    """Watchdog: after this time the best choice so far is taken, and the round says so."""
    workers: int = Field(default=1, ge=1, le=64)
    """Threads of CP-SAT, which runs only when the search leaves a larger gap; more than 1 is not repeatable."""
    seed: int = Field(default=0, ge=0)
    """Seed of CP-SAT."""
