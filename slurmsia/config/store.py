"""Section ``[store]``: the job-history database and how long it remembers."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class StoreSection(Section):
    """The job-history database."""

    url: str = "sqlite:////var/lib/slurmsia/slurmsia.db"
    """SQLAlchemy URL: SQLite (default) or PostgreSQL (`postgresql+psycopg://user@host/name`)."""
    password_file: str | None = None
    """File with the database password; the environment variable SLURMSIA_STORE_PASSWORD_FILE wins over it."""
    auto_upgrade: bool = True
    """Migrate an older or empty SQLite file at the daemon's start. PostgreSQL always needs `slurmsia db upgrade`."""
    busy_timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Longest wait for a lock or a connection before the store counts as away."""
    point_every_s: float = Field(default=300.0, ge=0)
    """Spacing of the points kept of a run's progress and gradient series. Sums are kept of every report."""
    prune_every_s: float = Field(default=3600.0, gt=0)
    """How often old rows are removed while the daemon works."""
    prune_batch_rows: int = Field(default=500, ge=1)
    """Rows removed in one short transaction."""
    keep_round_bodies_days: float = Field(default=3.0, ge=0)
    """Snapshot, models and plan of a round, needed by `slurmsia replay`."""
    keep_round_bodies_mb: int = Field(default=4096, ge=0)
    """Most space that the bodies of rounds may take; the oldest go first."""
    keep_rounds_days: float = Field(default=90.0, ge=0)
    """Objective, gap, times and sentence of a round."""
    keep_verdicts_days: float = Field(default=30.0, ge=0)
    """Verdicts that no longer stand."""
    keep_points_days: float = Field(default=30.0, ge=0)
    """Progress and gradient series."""
    keep_moves_days: float = Field(default=365.0, ge=0)
    """Finished moves and their events."""
    keep_operator_actions_days: float = Field(default=730.0, ge=0)
    """Who paused, resumed, reconfigured, and when."""
    keep_jobs_days: float = Field(default=365.0, ge=0)
    """Ended jobs with their runs and statistics. What was learnt from them by kind of job stays."""
    keep_kinds_days: float = Field(default=1095.0, ge=0)
    """What was learnt of kinds of jobs that nobody has run since."""
