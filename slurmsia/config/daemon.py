"""Section ``[daemon]``: mode, times, files and log of the service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class DaemonSection(Section):
    """Mode, times, files and log of the service."""

    mode: Literal["observe", "enforce"] = "observe"
    """`observe` writes nothing to Slurm and says what it would do; `enforce` acts."""
    state_dir: str = "/var/lib/slurmsia"
    """Folder of the daemon's own: leader lock, pause mark, last plan."""
    heartbeat_file: str = "/var/spool/slurmsia/heartbeat"
    """Epoch second of the last heartbeat, in enforce mode only; job_submit.lua leases jobs while it is fresh."""
    freeze_file: str = "/etc/slurmsia/freeze"
    """While this file exists nothing is written to Slurm, whatever the mode; its text is shown as the reason."""
    tick_s: float = Field(default=1.5, ge=0.1, le=30)
    """Time between two looks at moves in flight."""
    round_jitter: float = Field(default=0.05, ge=0, le=0.5)
    """Share of the round time by which a round may start earlier or later, so that sites do not beat in step."""
    early_round_after_s: float = Field(default=10.0, ge=0)
    """When a job ends or arrives, what waits may start between two rounds, not sooner than this after the last one."""
    read_budget_s: float = Field(default=1.0, gt=0)
    """When reading Slurm takes longer than this, rounds are stretched."""
    longest_round_s: float = Field(default=600.0, ge=1)
    """Rounds are never stretched beyond this."""
    solve_watchdog_s: float = Field(default=20.0, gt=0)
    """Wall-clock limit of one decision; past it allocations are kept as they are."""
    shutdown_s: float = Field(default=20.0, ge=0)
    """How long a stop waits for moves in flight to reach a safe state."""
    standby_s: float = Field(default=5.0, gt=0, le=20)
    """How often a second daemon looks whether it must take over."""
    log_format: Literal["text", "json"] = "text"
    """Format of the log on standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important messages that are logged."""
    memory_limit_mb: float = Field(default=1024.0, gt=0)
    """Resident memory beyond which the daemon warns and drops its caches."""
