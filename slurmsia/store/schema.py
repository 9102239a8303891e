"""The tables of the job-history store, as typed declarative classes; constraints live here, in the database.

Units are in the column names, times are UTC seconds since the epoch. The migrations in ``slurmsia_migrations`` must
always lead to exactly this schema. The tables of kinds are in `kind_tables`. No query and no session belongs here.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from .kind_tables import Kind as Kind
from .kind_tables import KindMemoryPeak as KindMemoryPeak
from .kind_tables import KindNoise as KindNoise
from .kind_tables import KindObservation as KindObservation
from .kind_tables import KindRatio as KindRatio
from .tables import Base as Base
from .tables import RowId, shape_checks


class Cluster(Base):
    """A Slurm cluster; several may share one store."""

    __tablename__ = "clusters"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_s: Mapped[float]

    __table_args__ = (CheckConstraint("name <> ''", name="name"),)


class Job(Base):
    """One job across its requeues: Slurm id, cluster and first submission. ``current`` names the id's present owner."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    cluster_id: Mapped[int] = mapped_column(RowId, ForeignKey("clusters.id", ondelete="CASCADE"))
    slurm_id: Mapped[str]
    first_submit_s: Mapped[float]
    last_submit_s: Mapped[float]
    current: Mapped[bool] = mapped_column(server_default=true())
    sluid: Mapped[str] = mapped_column(server_default=text("''"))
    user_id: Mapped[int]
    name: Mapped[str] = mapped_column(server_default=text("''"))
    account: Mapped[str] = mapped_column(server_default=text("''"))
    comment: Mapped[str] = mapped_column(server_default=text("''"))
    script_hash: Mapped[str] = mapped_column(server_default=text("''"))
    user_kind_id: Mapped[int | None] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="SET NULL"))
    script_kind_id: Mapped[int | None] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="SET NULL"))
    counted: Mapped[bool] = mapped_column(server_default=false())
    state: Mapped[str]
    restarts: Mapped[int] = mapped_column(server_default=text("0"))
    ended_s: Mapped[float | None]
    end_state: Mapped[str] = mapped_column(server_default=text("''"))
    last_seen_s: Mapped[float]
    history_version: Mapped[int] = mapped_column(server_default=text("0"))
    throughput_only: Mapped[bool] = mapped_column(server_default=false())
    gradient_t_s: Mapped[float | None]
    gradient_square: Mapped[float | None]
    gradient_variance: Mapped[float | None]
    gradient_scale: Mapped[float | None]
    progress_t_s: Mapped[float | None]
    progress_samples: Mapped[float | None]
    target_samples: Mapped[float | None]
    checkpoint_samples: Mapped[float | None]
    checkpoint_t_s: Mapped[float | None]
    final_samples: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("cluster_id", "slurm_id", "first_submit_s"),
        Index(
            "uq_jobs_current",
            "cluster_id",
            "slurm_id",
            unique=True,
            sqlite_where=text("current"),
            postgresql_where=text("current"),
        ),
        Index("ix_jobs_user_kind_ended", "user_kind_id", "ended_s"),
        Index("ix_jobs_script_kind_ended", "script_kind_id", "ended_s"),
        Index(
            "ix_jobs_unfinished",
            "cluster_id",
            "slurm_id",
            sqlite_where=text("ended_s IS NULL"),
            postgresql_where=text("ended_s IS NULL"),
        ),
        Index("ix_jobs_ended_s", "ended_s"),
        CheckConstraint("slurm_id <> ''", name="slurm_id"),
        CheckConstraint("user_id >= 0 AND restarts >= 0 AND history_version >= 0", name="counts"),
        CheckConstraint("state IN ('pending', 'running', 'suspended', 'ended')", name="state"),
        CheckConstraint("(state = 'ended') = (ended_s IS NOT NULL)", name="ended"),
        CheckConstraint("(gradient_t_s IS NULL) = (gradient_square IS NULL)", name="gradient"),
        CheckConstraint("(progress_t_s IS NULL) = (progress_samples IS NULL)", name="progress"),
    )


class Run(Base):
    """One start of a job. ``last_seq`` is the highest report number stored: reports up to it are duplicates."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    job_id: Mapped[int] = mapped_column(RowId, ForeignKey("jobs.id", ondelete="CASCADE"))
    restart: Mapped[int]
    started_s: Mapped[float]
    ended_s: Mapped[float | None]
    how_ended: Mapped[str] = mapped_column(server_default=text("''"))
    gpu_type: Mapped[str | None]
    nodes: Mapped[int] = mapped_column(server_default=text("0"))
    gpus: Mapped[int] = mapped_column(server_default=text("0"))
    node_names: Mapped[str] = mapped_column(server_default=text("''"))
    last_seq: Mapped[int] = mapped_column(server_default=text("-1"))
    last_report_s: Mapped[float | None]
    last_point_s: Mapped[float | None]
    handles_signal: Mapped[bool] = mapped_column(server_default=false())
    energy_j: Mapped[float] = mapped_column(server_default=text("0"))
    net_bytes: Mapped[float] = mapped_column(server_default=text("0"))
    extra_json: Mapped[str] = mapped_column(server_default=text("'{}'"))

    __table_args__ = (
        UniqueConstraint("job_id", "restart"),
        Index(
            "uq_runs_open",
            "job_id",
            unique=True,
            sqlite_where=text("ended_s IS NULL"),
            postgresql_where=text("ended_s IS NULL"),
        ),
        CheckConstraint("restart >= 0 AND nodes >= 0 AND gpus >= 0", name="counts"),
        CheckConstraint("(ended_s IS NULL) = (how_ended = '')", name="ended"),
        CheckConstraint("ended_s IS NULL OR ended_s >= started_s", name="times"),
        CheckConstraint("energy_j >= 0 AND net_bytes >= 0", name="sums"),
    )


class RunObservation(Base):
    """Sums over the optimiser steps of one run on one shape at one batch setting."""

    __tablename__ = "observations"

    run_id: Mapped[int] = mapped_column(RowId, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(primary_key=True)
    nodes: Mapped[int] = mapped_column(primary_key=True)
    gpus: Mapped[int] = mapped_column(primary_key=True)
    local_batch: Mapped[float] = mapped_column(primary_key=True)
    accumulation: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[float]
    step_sum_s: Mapped[float]
    step_square_sum_s2: Mapped[float]
    sync_sum_s: Mapped[float]

    __table_args__ = (*shape_checks(), {"sqlite_with_rowid": False})


class MemoryPeak(Base):
    """Highest GPU memory a job was seen to use at a local batch on a type."""

    __tablename__ = "memory_peaks"

    job_id: Mapped[int] = mapped_column(RowId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(primary_key=True)
    local_batch: Mapped[float] = mapped_column(primary_key=True)
    peak_bytes: Mapped[float]
    total_bytes: Mapped[float | None]

    __table_args__ = (CheckConstraint("peak_bytes >= 0", name="peak"), {"sqlite_with_rowid": False})


class GradientPoint(Base):
    """Gradient moments over time, thinned; the latest is on the job."""

    __tablename__ = "gradient_points"

    run_id: Mapped[int] = mapped_column(RowId, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    t_s: Mapped[float] = mapped_column(index=True)
    square: Mapped[float]
    variance: Mapped[float]
    scale: Mapped[float]

    __table_args__ = ({"sqlite_with_rowid": False},)


class ProgressPoint(Base):
    """Progress over time, thinned; the latest is on the job."""

    __tablename__ = "progress_points"

    run_id: Mapped[int] = mapped_column(RowId, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    t_s: Mapped[float] = mapped_column(index=True)
    samples: Mapped[float]

    __table_args__ = (CheckConstraint("samples >= 0", name="samples"), {"sqlite_with_rowid": False})


class RestartCostRow(Base):
    """Seconds one restart took, by part; parts arrive in different reports of one run."""

    __tablename__ = "restart_costs"

    run_id: Mapped[int] = mapped_column(RowId, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    cluster_id: Mapped[int] = mapped_column(RowId, ForeignKey("clusters.id", ondelete="CASCADE"))
    user_kind_id: Mapped[int | None] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="SET NULL"))
    script_kind_id: Mapped[int | None] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="SET NULL"))
    t_s: Mapped[float]
    save_s: Mapped[float | None]
    requeue_s: Mapped[float | None]
    load_s: Mapped[float | None]
    first_step_s: Mapped[float | None]

    __table_args__ = (
        Index("ix_restart_costs_user_kind", "user_kind_id", "t_s"),
        Index("ix_restart_costs_script_kind", "script_kind_id", "t_s"),
        Index("ix_restart_costs_cluster", "cluster_id", "t_s"),
        CheckConstraint(
            "coalesce(save_s, 0) >= 0 AND coalesce(requeue_s, 0) >= 0 AND coalesce(load_s, 0) >= 0 "
            "AND coalesce(first_step_s, 0) >= 0",
            name="parts",
        ),
    )


class Fit(Base):
    """The latest fitted model of a job on a GPU type."""

    __tablename__ = "fits"

    job_id: Mapped[int] = mapped_column(RowId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(primary_key=True)
    params_json: Mapped[str]
    source: Mapped[str]
    rel_error: Mapped[float]
    observations: Mapped[float]
    fitted_s: Mapped[float]
    one_gpu_samples_per_s: Mapped[float | None]

    __table_args__ = (
        CheckConstraint("rel_error >= 0 AND observations >= 0", name="numbers"),
        CheckConstraint("one_gpu_samples_per_s > 0", name="throughput"),
    )


class StandingRow(Base):
    """What slurmsia itself remembers of a job between rounds, as canonical JSON of `Standing`."""

    __tablename__ = "standings"

    job_id: Mapped[int] = mapped_column(RowId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    body_json: Mapped[str]
    updated_s: Mapped[float]


class ConfigText(Base):
    """A policy file that was in force, by the hash of its canonical JSON."""

    __tablename__ = "configs"

    hash: Mapped[str] = mapped_column(primary_key=True)
    body_json: Mapped[str]
    first_used_s: Mapped[float]


class Round(Base):
    """One round of the daemon. Objective, bound and gap are NULL where the policy has no finite one."""

    __tablename__ = "rounds"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    cluster_id: Mapped[int] = mapped_column(RowId, ForeignKey("clusters.id", ondelete="CASCADE"))
    taken_s: Mapped[float]
    mode: Mapped[str]
    policy: Mapped[str]
    policy_hash: Mapped[str]
    config_hash: Mapped[str] = mapped_column(ForeignKey("configs.hash"), index=True)
    objective: Mapped[float | None]
    bound: Mapped[float | None]
    gap: Mapped[float | None]
    stage: Mapped[str]
    sentence: Mapped[str]
    jobs: Mapped[int]
    moves: Mapped[int]
    times_json: Mapped[str]
    generation: Mapped[int | None]

    __table_args__ = (
        UniqueConstraint("cluster_id", "taken_s"),
        CheckConstraint("taken_s > 0 AND taken_s < 1e11", name="taken_s"),
        CheckConstraint("gap >= 0 AND jobs >= 0 AND moves >= 0", name="numbers"),
        {"sqlite_autoincrement": True},
    )


class RoundBody(Base):
    """Snapshot, plan, models and standing of a round, compressed; apart from the round so that lists stay cheap."""

    __tablename__ = "round_bodies"

    round_id: Mapped[int] = mapped_column(RowId, ForeignKey("rounds.id", ondelete="CASCADE"), primary_key=True)
    snapshot: Mapped[bytes]
    plan: Mapped[bytes]
    models: Mapped[bytes]
    standing: Mapped[bytes]


class VerdictRow(Base):
    """A verdict of a job over the rounds it stood; the newest span of a job is ``open``."""

    __tablename__ = "verdicts"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    job_id: Mapped[int] = mapped_column(RowId, ForeignKey("jobs.id", ondelete="CASCADE"))
    open: Mapped[bool]
    code: Mapped[str]
    term: Mapped[str]
    body_json: Mapped[str]
    first_round: Mapped[int]
    last_round: Mapped[int]
    first_s: Mapped[float]
    last_s: Mapped[float] = mapped_column(index=True)
    rounds: Mapped[int]

    __table_args__ = (
        Index("ix_verdicts_job_id_last_s", "job_id", "last_s"),
        Index("uq_verdicts_open", "job_id", unique=True, sqlite_where=text("open"), postgresql_where=text("open")),
        CheckConstraint("first_round <= last_round AND first_s <= last_s AND rounds >= 1", name="span"),
    )


class Move(Base):
    """A move: its intent is written before the first call to Slurm. A job has at most one unfinished move."""

    __tablename__ = "moves"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(RowId, ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    round_id: Mapped[int | None] = mapped_column(RowId, ForeignKey("rounds.id", ondelete="SET NULL"), index=True)
    state: Mapped[str]
    target_json: Mapped[str]
    cause: Mapped[str]
    generation: Mapped[int]
    created_s: Mapped[float] = mapped_column(index=True)
    updated_s: Mapped[float]
    ended_s: Mapped[float | None] = mapped_column(index=True)

    __table_args__ = (
        Index(
            "uq_moves_unfinished",
            "job_id",
            unique=True,
            sqlite_where=text("ended_s IS NULL"),
            postgresql_where=text("ended_s IS NULL"),
        ),
        CheckConstraint("id <> '' AND state <> ''", name="names"),
        CheckConstraint("generation >= 0", name="generation"),
    )


class MoveEventRow(Base):
    """One transition of a move."""

    __tablename__ = "move_events"

    move_id: Mapped[str] = mapped_column(ForeignKey("moves.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    t_s: Mapped[float]
    event: Mapped[str]
    from_state: Mapped[str]
    to_state: Mapped[str]
    cause: Mapped[str]
    detail: Mapped[str]
    actions_json: Mapped[str]
    generation: Mapped[int]

    __table_args__ = (CheckConstraint("seq >= 1", name="seq"),)


class OperatorActionRow(Base):
    """Who did what, when."""

    __tablename__ = "operator_actions"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    t_s: Mapped[float] = mapped_column(index=True)
    who: Mapped[str]
    user_id: Mapped[int | None]
    what: Mapped[str]
    slurm_id: Mapped[str | None]
    detail_json: Mapped[str]

    __table_args__ = (CheckConstraint("who <> '' AND what <> ''", name="names"),)


class LeaseRow(Base):
    """Who leads. ``generation`` never decreases."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    generation: Mapped[int]
    acquired_s: Mapped[float]
    renewed_s: Mapped[float]
    expires_s: Mapped[float]

    __table_args__ = (CheckConstraint("generation >= 1", name="generation"),)
