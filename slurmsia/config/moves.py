"""Section ``[moves]``: limits and times of moves and leases."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class DeadlinesSection(Section):
    """How long an edited job may stay pending, by Slurm's reason, before it gets its former shape back."""

    priority_s: float = Field(default=90.0, ge=0)
    """Other jobs are before it (`Priority`, `Resources`): the backfill race was lost."""
    limit_s: float = Field(default=60.0, ge=0)
    """A limit of its association or QOS is reached (`Assoc...`, `QOS...`), or a licence is missing."""
    unavailable_s: float = Field(default=30.0, ge=0)
    """Nodes that it needs are not available, or its partition is down."""
    other_s: float = Field(default=120.0, ge=0)
    """Any other reason."""


class MovesSection(Section):
    """Limits and times of moves and leases."""

    lease_s: float = Field(default=600.0, ge=60)
    """How long a waiting job waits before Slurm starts it by itself when the daemon is gone."""
    grace_s: float = Field(default=60.0, gt=0, le=3600)
    """Time a job gets for its checkpoint after the signal, unless it declared or showed that it needs another."""
    min_run_s: float = Field(default=120.0, ge=0)
    """A job is not moved before its present run is this old."""
    only_proven: bool = False
    """Move only jobs whose script its owner has rehearsed (`slurmsia rehearse`); others keep what they started with."""
    per_round: int = Field(default=32, ge=0)
    """Most moves that one round may begin (starts of waiting jobs do not count)."""
    per_user_round: int = Field(default=16, ge=0)
    """Most moves of one user's jobs that one round may begin."""
    in_flight: int = Field(default=32, ge=1)
    """Most moves under way at a time."""
    starts_per_round: int = Field(default=256, ge=1)
    """Most waiting jobs that one round may start."""
    checkpoint_gb_in_flight: float | None = Field(default=None, gt=0)
    """Most checkpoint data that signalled jobs may be writing at a time; default: no limit."""
    attempts: int = Field(default=3, ge=1, le=20)
    """Tries of one call to Slurm before a move is given up."""
    retry_s: float = Field(default=2.0, ge=0.1)
    """Wait between two tries, and between two reads of the queue while moves are under way."""
    room_wait_s: float = Field(default=60.0, ge=0, le=110)
    """Longest wait of a requeued job for its new GPUs; below Slurm's own requeue delay."""
    plan_age_s: float = Field(default=180.0, ge=10)
    """A move that could not begin by then is dropped."""
    first_report_s: float = Field(default=900.0, ge=0)
    """Longest wait for the first report after a move; until then the job is left alone."""
    same_node_wait_s: float = Field(default=2.0, ge=0, le=60)
    """Pause before a job starts again on a node that it just left."""
    launch_failures: int = Field(default=3, ge=0, le=20)
    """Holds after failed launches that one move ends before it leaves the job to an operator."""
    shrink_running: bool = False
    """Let running jobs give back whole nodes without a restart; only for jobs that survive the loss of nodes."""
    deadlines: DeadlinesSection = Field(default_factory=DeadlinesSection)
